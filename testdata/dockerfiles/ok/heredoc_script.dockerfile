# A first line that names an interpreter, the whole body, tabs and all.
FROM b
RUN <<EOF
#!/usr/bin/env python3
if True:
	print("a\tb")

EOF
