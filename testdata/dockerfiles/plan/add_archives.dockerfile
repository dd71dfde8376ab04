# ADD unpacks, unless told not to.
FROM busybox
ADD t.tar /p
ADD --unpack=false t.tar /p
ADD --unpack=true t.tar /p
