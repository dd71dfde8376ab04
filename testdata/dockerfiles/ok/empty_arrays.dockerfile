# Empty arrays clear the command.
FROM b
CMD []
ENTRYPOINT []
CMD
