# Flags of ADD.
FROM b
ADD --checksum=sha256:00 --keep-git-dir --unpack=false --exclude=x https://example.com/a /a
