# The nearest keyword, in any case; bodies of what was meant are not read as instructions.
FROM b
workdri /a
EntryPonit ["a"]
CMDD a
HELTHCHECK NONE
ADDD <<E /x
RUN rm -rf /
E
EXPSOE 80
ENVV A=1
