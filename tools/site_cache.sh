#!/bin/sh
# Keep DVC's site cache in a folder that nobody but this user may enter: .dvc/site-cache.
#
# By default it is in a folder that every user of the machine may change (/var/tmp/dvc on Linux). DVC
# reads pickles there, so another user could run code as whoever calls `dvc checkout` (CVE-2025-69872).
# A variable of the Makefile would not help whoever calls `dvc` by hand; the clone's configuration does.
# A place that the user has set, on any level, is kept.
set -eu
here=$PWD/.dvc/site-cache
in_cache=${XDG_CACHE_HOME:-${HOME:-}/.cache}/dvc-image-pipeline/site-cache

set_to=$(dvc config core.site_cache_dir)
case $set_to in
  '' | */.dvc/site-cache | */dvc-image-pipeline/site-cache) ;; # not set, or by us, perhaps elsewhere
  *) exit ;;
esac

# DVC can write only ASCII into its configuration; where it fails, it has emptied the file. `%(` would
# be filled in.
can_be_named() { ! printf %s "$1" | LC_ALL=C grep -q '[^ -~]\|%('; }

for folder in "$here" "$in_cache"; do
  if can_be_named "$folder" && mkdir -p "$folder" 2> /dev/null && chmod 700 "$folder"; then
    [ "$set_to" = "$folder" ] || dvc config --local core.site_cache_dir "$folder"
    exit
  fi
done
echo "warning: DVC's cache of checksums stays where every user of this machine may change it: neither" \
  "$here nor $in_cache can be used; set DVC_SITE_CACHE_DIR to a folder of mode 700" >&2
