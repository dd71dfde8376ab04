//! Guards `main.rs`: a test file that is not named there would never run.

#[test]
fn every_test_file_is_part_of_the_test_binary() {
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/tests");
    let main = include_str!("main.rs");
    for entry in std::fs::read_dir(directory).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.strip_suffix(".rs").unwrap_or(&name);
        assert!(
            matches!(module, "main" | "golden") || main.contains(&format!("mod {module};")),
            "{name}"
        );
    }
}
