# Addresses are sources like any other until they are fetched.
FROM b
ADD https://example.com/a.tar.gz /a/
ADD --keep-git-dir git@example.com:a/b.git#main:dir /b
ADD --checksum=sha256:$SUM --unpack https://example.com/$V/c.tar /c
ADD --link --chown=1:1 --chmod=755 a b /d/
