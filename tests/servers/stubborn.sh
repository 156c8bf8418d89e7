#!/bin/sh
# A stdio server that nothing but SIGKILL ends, with a child that is the same. Both hold $FIFO open for writing, so its
# reader sees a line when they have begun, and the end of file exactly when both are gone. MODE `polite`: the server itself leaves when its stdin ends.
exec 9>"$FIFO"
trap '' TERM INT HUP
(while :; do sleep 1000; done) </dev/null >/dev/null 2>&1 &
echo begun >&9
read -r hello
echo '{"jsonrpc":"2.0","id":1,"result":{"protocolVersion":"2025-06-18","capabilities":{},"serverInfo":{"name":"sh","version":"1"}}}'
read -r initialized
if [ "$1" = polite ]; then read -r more; exit 0; fi
while :; do sleep 1000; done
