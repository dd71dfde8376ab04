# Comments inside the command go, those inside the body stay.
FROM b
RUN cat <<A \
# gone
 | sort
# stays
A
