# A byte order mark goes at the start of a file; elsewhere it is text.
FROM b
RUN echo ﻿
