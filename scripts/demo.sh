#!/usr/bin/env bash
# Makes .venv if it is absent, installs the package, and trains a Tree-LSTM on generated ListOps for
# one minute; ends with a table and a learning curve. Arguments change the config:
# bash scripts/demo.sh train.max_seconds=30 model.hidden=64
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install plot

say "training: configs/demo.yaml"
"$VENV/bin/python" scripts/train.py configs/demo.yaml "$@"
