# Ranges, protocols, mappings; judged when variables are known.
FROM b
EXPOSE 80	443/TCP  9000-9002/udp
EXPOSE 127.0.0.1:80:8080 $PORTS "53/udp"
