#!/bin/sh
# `make run`: reproduce the pipeline; on the embedded digits if its data cannot be downloaded.
set -eu
. tools/folder_lock.sh
lock_folder 'make run' .dvc

python -m tools.check
python -m tools.doctor --quiet --fix

dataset() { sed -n 's/^  dataset: *\([^ #]*\).*/\1/p' params.yaml | tr -d "'\""; }
wanted=$(dataset)
prepared() { dvc status --quiet prepare 2> /dev/null; }

# Prepared data in the workspace or in DVC's cache needs no source.
if prepared || { dvc checkout prepare > /dev/null 2>&1 && prepared; }; then
  echo 'The prepared data is up to date; nothing needs to be downloaded.'
else
  python -m stages.datasets.idx || {
    [ $? -eq 2 ] || exit 1
    fall_back=yes
  }
fi
if [ -n "${fall_back:-}" ]; then
  echo "!!! $wanted could not be downloaded, so the pipeline runs on the embedded digits."
  cp params.yaml .dvc/tmp/params.yaml
  dvc exp run -S prepare.dataset=digits || {
    mv .dvc/tmp/params.yaml params.yaml
    exit 1
  }
else
  dvc repro
fi
python -m tools.doctor --quiet # DVC may have restored damaged results of an earlier run
dvc metrics show metrics/evaluate.json
if [ "$(dataset)" = digits ]; then
  [ "$wanted" = digits ] && wanted=mnist
  cat << END
!!! These numbers are for the embedded digits, not for $wanted. Back to it:
    source .venv/bin/activate
    MNIST_MIRROR=<folder or https URL that holds $wanted/> dvc exp run -S prepare.dataset=$wanted
END
fi
