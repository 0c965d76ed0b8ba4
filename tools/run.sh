#!/bin/sh
# `make run`: reproduce the pipeline on MNIST or, where MNIST cannot be had, on the embedded digits.
set -u

prepared() { dvc status --quiet prepare 2> /dev/null; }

# Prepared data that is here, or in DVC's cache, needs no source.
if prepared || { dvc checkout prepare > /dev/null 2>&1 && prepared; }; then
  echo 'The prepared data is up to date; nothing needs to be downloaded.'
else
  python -m stages.datasets.mnist
  case $? in
    0) ;;
    2) fall_back=yes ;;
    *) exit 1 ;;
  esac
fi
if [ -n "${fall_back:-}" ]; then
  echo '!!! MNIST could not be had, so the pipeline runs on the embedded digits.'
  dvc exp run -S prepare.dataset=digits || exit
else
  dvc repro || exit
fi
dvc metrics show metrics/evaluate.json
if grep -q '^ *dataset: digits' params.yaml; then
  cat << 'END'
!!! These numbers are for the embedded digits, not for MNIST. Back to MNIST:
    source .venv/bin/activate
    MNIST_MIRROR=<folder or https URL with the four .gz files> dvc exp run -S prepare.dataset=mnist
END
fi
