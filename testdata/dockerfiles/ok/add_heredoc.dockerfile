# ADD has texts too.
FROM b
ADD --chmod=755 <<run.sh /usr/bin/
#!/bin/sh
exec "$@"
run.sh
