# Names, numbers, variables; flags are overlooked.
FROM b
STOPSIGNAL 9
STOPSIGNAL --x SIGRTMIN+3
STOPSIGNAL $SIG
