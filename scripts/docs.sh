#!/usr/bin/env bash
# Builds the site of docs/ in site/, without the network: makes .venv if it is absent, installs the
# package, checks that every public name has a docstring, and fails on a link that leads nowhere.
# Arguments go to mkdocs: bash scripts/docs.sh --site-dir /tmp/site
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
install docs

say "public names"
"$VENV/bin/python" scripts/public_names.py
say "site"
export NO_MKDOCS_2_WARNING=1 # a notice of the theme about a coming version, which setup.cfg excludes
# Not with --quiet: it hides warnings from --strict too, and a broken link would pass.
"$VENV/bin/python" -m mkdocs build --strict "$@"
say "done: open site/index.html"
