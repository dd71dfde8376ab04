# Comments may steer checks for one instruction.
FROM b
# check=skip=JSONArgsRecommended
CMD a
