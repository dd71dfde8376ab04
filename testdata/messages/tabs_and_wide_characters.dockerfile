FROM alpine
RUN	--mount=type=sercet,id=schlüssel	echo ☃ --é
LABEL	näme="☃ ${undefined}"
