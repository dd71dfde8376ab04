FROM base
# check=skip=all
CMD ["a"]
CMD ["b"]
# check=skip=MultipleInstructionsDisallowed
CMD ["c"]
