# To be sourced. `lock_folder "make run" .dvc` lets one process at a time continue.
#
# It locks a folder, since Git replaces files. The lock writes nothing, and ends with its holder or with
# the holder's last child. Without flock, DVC and the stages still refuse or wait by themselves.
lock_folder() {
  exec 9< "$2"
  command -v flock > /dev/null || return 0
  flock -n 9 || [ $? -ne 1 ] || {
    echo "note: another \`$1\` works in this folder; waiting for its end"
    flock 9 || exit
  }
}
