#!/bin/sh
# Keep DVC's site cache in .dvc/site-cache, which only this user may enter.
#
# DVC's default is a folder that every user of the machine may change (/var/tmp/dvc on Linux). DVC reads
# pickles there, so another user could run code as whoever calls `dvc checkout` (CVE-2025-69872). The
# clone's configuration protects direct calls of `dvc`, too; a variable in the Makefile would not. A
# place that the user has configured is kept.
set -eu
[ -w .dvc ] || exit 0 # DVC cannot work here
here=$PWD/.dvc/site-cache
in_cache=${XDG_CACHE_HOME:-${HOME:-}/.cache}/dvc-image-pipeline/site-cache

configured=$(dvc config core.site_cache_dir)
case $configured in
  '' | */.dvc/site-cache | */dvc-image-pipeline/site-cache) ;; # ours, perhaps of another place
  *) exit ;;
esac

# DVC can write only ASCII into its configuration; if it fails, it empties the file. It expands `%(`.
writable() { ! printf %s "$1" | LC_ALL=C grep -q '[^ -~]\|%('; }

for folder in "$here" "$in_cache"; do
  if writable "$folder" && mkdir -p "$folder" 2> /dev/null && chmod 700 "$folder"; then
    [ "$configured" = "$folder" ] || dvc config --local core.site_cache_dir "$folder"
    exit
  fi
done
echo "warning: DVC's cache of checksums stays where every user of this machine may change it: neither" \
  "$here nor $in_cache can be used; set DVC_SITE_CACHE_DIR to a folder of mode 700" >&2
