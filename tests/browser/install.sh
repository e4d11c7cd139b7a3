#!/bin/sh
# Chromium and its driver, for make test-browser: installed where that needs no question, otherwise said how.
browser() { command -v chromium || command -v chromium-browser || command -v google-chrome; }
if browser >/dev/null && command -v chromedriver >/dev/null; then exit 0; fi
if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing chromium and chromium-driver with apt-get"
    log=$(mktemp)
    { apt-get update -q && DEBIAN_FRONTEND=noninteractive apt-get install -qy --no-install-recommends \
        chromium chromium-driver fonts-dejavu-core; } >"$log" 2>&1 && rm -f "$log" && exit 0
    tail -n 3 "$log"
    rm -f "$log"
fi
echo "Chromium and chromedriver are needed; the browser tests are skipped without them. Debian, Ubuntu:"
echo "    sudo apt-get install chromium chromium-driver     (macOS: brew install --cask chromium chromedriver)"
