FROM base
RUN a \

  && b \

  && c
RUN <<E cat \

-
body
E
