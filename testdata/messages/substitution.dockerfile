FROM alpine
ENV A=${B^^}
ENV C="${D"
ENV E='x
