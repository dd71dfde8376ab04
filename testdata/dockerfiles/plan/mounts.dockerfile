# Every kind with its defaults and its options.
FROM busybox
WORKDIR /wd
RUN --mount=type=bind,target=m,source=d touch m/x
RUN --mount=type=bind,target=m,source=d,rw touch m/x
RUN --mount=type=cache,target=/c,mode=0700,uid=5,gid=6 stat /c
RUN --mount=type=cache,target=/c,from=busybox,source=/etc ls /c
RUN --mount=type=tmpfs,target=/t,size=1m df /t
RUN --mount=type=secret,id=x cat /run/secrets/x
RUN --mount=type=secret,id=x,required cat /run/secrets/x
RUN --mount=type=secret,id=x,env=TOK use $TOK
RUN --mount=type=ssh --mount=type=ssh,required,id=b git clone
RUN --mount=type=cache,id=${PWD:-i},target=/d,sharing=private,ro true
