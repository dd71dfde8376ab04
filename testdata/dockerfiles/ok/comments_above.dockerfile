# Comment blocks belong to the instruction below; an empty comment starts anew, a blank line does not.
#
# TAG what to build on
ARG TAG

# lost
#
# build the

  # program
FROM b AS build
RUN a
