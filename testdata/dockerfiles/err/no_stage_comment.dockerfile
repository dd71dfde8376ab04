# Arguments and comments only.
ARG A
# no stage follows
ARG B=1
