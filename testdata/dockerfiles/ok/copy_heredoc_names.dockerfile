# Names of files that are texts.
FROM b
COPY <<app.conf /etc/
a
app.conf
COPY <<"my file" /x
b
my file
COPY <<E$V /y
c
E$V
COPY <<\E /z
$V
E
