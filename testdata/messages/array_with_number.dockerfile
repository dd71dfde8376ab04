FROM alpine
EXPOSE 80
CMD ["sleep", 10]
