# Records with quotes, empty fields, keys in any case.
FROM b
RUN --mount=type=bind,source=a,target=/a,ro --mount=TYPE=cache,Target=/c,sharing=locked x
RUN --mount="type=secret,id=a b,env=C" --mount=type=ssh x
RUN --mount='type=tmpfs,"target=/a,b",size=1g' x
RUN --mount=type=cache,,target=/d x
