//! Whatever is written, the answer is a plan or a message.
use super::{Scratch, WIKI, sets};
use crate::plan::Overrides;
use proptest::prelude::*;

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, ..ProptestConfig::default() })]

    #[test]
    fn any_set_is_answered(text in any::<String>(), key in "[a-z_.\"' ]{0,30}", value in "[-a-z0-9_.\"'\\[\\]{}= ]{0,20}") {
        let scratch = Scratch::new(&[("wiki.toml", WIKI)]);
        let typed = format!("{key}={value}");
        let known = format!("optimize.schedule={value}");
        let deep = format!("optimize.{key}={value}");
        for set in [&text, &typed, &known, &deep] {
            if let Ok(plan) = scratch.load("wiki.toml", &sets(&[set])) {
                let again = Scratch::new(&[("wiki.toml", &plan.resolved.to_toml())]).load("wiki.toml", &Overrides::default());
                prop_assert_eq!(again.map_err(|e| TestCaseError::fail(e.to_string()))?.resolved, plan.resolved);
            }
        }
    }

    #[test]
    fn any_file_is_answered(bytes in prop::collection::vec(any::<u8>(), 0..200), at in 0..WIKI.len(), text in "[\\PC\n]{0,40}") {
        let scratch = Scratch::new(&[("wiki.toml", "")]);
        std::fs::write(scratch.path("wiki.toml"), bytes).unwrap();
        prop_assert!(!scratch.problems("wiki.toml", &Overrides::default()).is_empty());
        let mut wiki = WIKI.to_owned();
        wiki.insert_str(at, &text);
        std::fs::write(scratch.path("wiki.toml"), wiki).unwrap();
        prop_assert!(!scratch.problems("wiki.toml", &Overrides::default()).is_empty());
    }
}

#[test]
fn deep_nesting_is_answered() {
    for deep in ["[".repeat(100_000), "a=".to_owned() + &"[".repeat(100_000), "a=".to_owned() + &"{a=".repeat(100_000)]
    {
        assert!(Scratch::new(&[("c.toml", &deep)]).problems("c.toml", &Overrides::default()).contains("error"));
        let set = sets(&[&format!("read.paths={deep}")]);
        assert!(Scratch::new(&[("c.toml", WIKI)]).problems("c.toml", &set).contains("error"));
    }
}
