//! Where the language is not what its documentation says, or says nothing: what builds rely on, what we do, and the test that shows it.
//!
//! Only documentation: there is no code here. *Documented* is the published Dockerfile reference; *others* is what BuildKit does,
//! which is what Dockerfiles are written against. Where the two differ we do as others do, unless it could only hurt.
//!
//! # As others do, against the documentation
//!
//! | case | documented | others, and we | test |
//! |---|---|---|---|
//! | blank line between a comment block and its instruction | ends the block | does not; only an empty comment does | `ok/comments_above` |
//! | `ENV X` above, `ARG X` below | `ENV` always wins | the later one is seen by steps; the image keeps `ENV` | `plan/env_then_arg` |
//! | several sources to a destination without a slash | an error | each file replaces the one before; we add a warning | `plan/copy_several_to_a_file` |
//! | `--chown=joe` | the group has the number of the user | the user's own group by the image's files | `builder/tests/copy.rs` |
//! | owners of `COPY --from` | 0:0 | those of the source | `builder/tests/copy.rs` |
//! | ignore file of a context from git, a URL or stdin | is applied | is not; we add a warning | `cli/tests/contexts.rs` |
//!
//! # As others do, where the documentation is silent
//!
//! | case | others, and we | test |
//! |---|---|---|
//! | three escape characters at the end of a line | count as two: no continuation | `ok/continuation_triple` |
//! | an escape character that the file ends with | disappears | `ok/continuation_at_end` |
//! | `['a', 'b']`, `["a",]`, `["a"] b` | no arrays: text for the shell, without a word | `ok/json_fallback` |
//! | `COPY "a b" /x` | quotes do not hold words together | `ok/copy_words` |
//! | `<< EOF`, with a blank | opens a heredoc | `ok/heredoc_blank` |
//! | two heredocs with one name in a `COPY` | both have the text of the last | `ok/heredoc_same_name` |
//! | flags before the names of `ARG`, before a `STOPSIGNAL` | are overlooked | `ok/arg_words`, `ok/stop_signals` |
//! | `ARG $NAME=1`, `ARG "NAME"=1` | the name is what is written, dollar and quotes included | `plan/arg_names` |
//! | `FROM base` after `AS Base`, and `FROM BASE` | names are lower case, `FROM` compares as written, everything else in any case | `plan/stage_name_case` |
//! | `--target 0` | a name that no stage has | `frontend/tests/lower/errors.rs` |
//! | two stages of one name | the later one hides the first from then on | `plan/stage_hides_image` |
//! | `CMD` in a child's parent, `ENTRYPOINT` in the child | the command goes; one of the same stage stays | `plan/entrypoint_and_cmd` |
//! | any `CMD` | sets `ArgsEscaped`, on Linux too | `plan/commands_cleared` |
//! | relative `WORKDIR`s | only the first is blamed: the others are mended with it | `plan/workdir_relative` |
//! | `RUN` without text | a shell with an empty command | `plan/commands_cleared` |
//! | `$-`, `$1`, `$$` | parameters of a shell that are always unset, so nothing | `testdata/tables/words.txt` |
//! | `a**` in an ignore file | a plain prefix; `**a` a plain suffix; `**a*` neither | `testdata/tables/ignore.txt` |
//! | `[!a]` in an ignore file | `!` is a member, `^` negates | `testdata/tables/ignore.txt` |
//! | `!d` in an ignore file, below a pattern for something in `d` | takes nothing back: `d` itself was not excluded | `frontend/tests/ignore.rs::a_walk_does_not_bring_back_what_its_directory_never_lost` |
//! | `ADD --chmod` of an archive that is unpacked | `--chown` applies to what the archive names, `--chmod` to nothing | `builder/tests/copy.rs::the_owner_of_the_instruction_applies_to_what_an_archive_names_and_its_mode_to_nothing` |
//! | `--link` together with `--chmod` | an ordinary copy | `testdata/parity/targets.txt` |
//! | a step changes only the time of a directory | no change, nothing in the layer | `builder/tests/layers.rs::a_directory_that_was_only_touched_is_no_change` |
//! | a further context behind a URL | is one file called `context`; only the main context is unpacked | `cli/tests/contexts.rs::further_contexts_come_from_git_and_urls` |
//!
//! # Where we differ
//!
//! | case | others | we | why | test |
//! |---|---|---|---|---|
//! | `RUN echo $(( 1 << 2 ))` | `2` opens a heredoc, which never ends | a text opens after a blank only if a line ends it | arithmetic of shells is not a mistake | `ok/heredoc_shift` |
//! | a heredoc below a misspelt instruction | its lines are instructions | is read as the body it was meant to be | one mistake, one message | `err/unknown_heredoc` |
//! | first mistake in a file | ends everything | all mistakes are told at once, up to the plan | fewer rounds | `err/every_line_at_once` |
//! | a build argument that nothing declares | silence | one warning, with near names | a slip costs an hour | `messages/misspelt_build_argument` |
//! | a reference in `--from` that no registry has | the registry's answer | and the stage that may be meant | stages are misspelt more often | `frontend/tests/lower/errors.rs` |
//! | frontends by `# syntax=` other than Docker's | are run | are refused, with the way out | we run no foreign frontends | `err/foreign_syntax` |
//! | `$1` in the text of `${A//b/$1}` | may be taken for a group of an expression | is text, as far as it is still there after expansion | an accident of the implementation | `frontend/src/shell_pattern.rs` |
//! | `${…}` more than 64 deep | any depth | is refused | a hostile file would end the process | `frontend/tests/tables.rs` |
//! | a word whose variables bring in more than 1 MiB, a file in which they come to more than 64 MiB | any size | are refused | `ENV A=$A$A` thirty times is gigabytes | `frontend/tests/lower/limits.rs` |
//! | trace variables of the builder in steps | are there | never | steps shall not depend on who watches | `plan/env_then_arg` |
//! | times of files from git | of the checkout, unless `mtime=commit` | of the commit, unless `mtime=checkout` | one commit, one layer | `cli/tests/sources.rs::a_repository_is_added_as_its_files` |
//! | `RUN --device` | in the labs channel of the syntax only | always there | there is one frontend | `cli/tests/privileges.rs::a_device_must_be_allowed_and_registered` |
//! | devices that are described in YAML | are known | are left out; a message names the file | tools write JSON as well | `cli/tests/privileges.rs::a_device_must_be_allowed_and_registered` |
//! | `WORKDIR` below `/proc`, mounts over `/dev` and anything of `/proc` and `/sys` | are left to the runtime | are refused | ways out of sandboxes began there | `frontend/tests/lower/hostile.rs` |
//! | an option of a mount that is said twice | the last counts | is refused | two answers to one question are none | `frontend/tests/lower/hostile.rs::t08_options_of_mounts_are_known_and_said_once` |
//! | `rm /dev/random` in a step | works | the device is busy | nodes are mounts, so that those of a step open nothing | `builder/tests/executor/hostile.rs::t06_device_nodes_of_a_step_open_nothing` |
//! | the exit code of a failed step | only in a message | in the message and in the events of the build | scripts want it | `cli/tests/failures.rs` |
//!
//! Results that differ in a case of `cargo xtask parity`, each with its reason: `testdata/parity/differences.table`. The cases beside
//! it are built with the reference, too, where it is installed.
//!
//! A test without a folder of the repository is a file of `testdata/dockerfiles`, or of `testdata`.
