# check=experimental=InvalidDefinitionDescription
# about something else
ARG A
# B the second
ARG B
# build compiles
FROM base AS build
# not named
FROM base
# wrong
ARG C D
# D the fourth
ARG D E
# free words
#
ARG F
