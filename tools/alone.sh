# To be sourced. `alone "make run" .dvc` lets one process at a time go on.
#
# The lock is on a folder, which Git does not replace as it does files. It writes nothing, and ends with
# its holder, or with a `dvc` of the holder's that outlives it. Without flock, DVC and the stages still
# refuse or wait by themselves.
alone() {
  exec 9< "$2"
  command -v flock > /dev/null || return 0
  flock -n 9 || [ $? -ne 1 ] || {
    echo "note: another \`$1\` works in this folder; waiting for its end"
    flock 9 || exit
  }
}
