# To be sourced. `alone "make run"` lets one process at a time go on with the script that calls it.
#
# The lock is on the script's own file. It writes nothing, and ends with its holder, or with a `dvc` of
# the holder's that outlives it. Without flock, DVC and the stages still refuse or wait by themselves.
alone() {
  exec 9< "$0"
  command -v flock > /dev/null || return 0
  flock -n 9 || [ $? -ne 1 ] || {
    echo "note: another \`$1\` works in this folder; waiting for its end"
    flock 9 || exit
  }
}
