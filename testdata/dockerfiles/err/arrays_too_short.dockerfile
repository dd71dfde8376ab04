# Arrays with too little in them.
FROM b
COPY ["a"]
COPY []
ADD [""]
VOLUME []
VOLUME [""]
