//! A configuration in TOML becomes a plan, or a list of problems that can be printed.
#![no_main]
use libfuzzer_sys::fuzz_target;
use millrace_pipelines::STAGES;
use millrace_pipelines::plan::{Overrides, Plan};

fuzz_target!(|data: &[u8]| {
    let path = std::env::temp_dir().join(format!("millrace-fuzz-{}.toml", std::process::id()));
    std::fs::write(&path, data).unwrap();
    match Plan::load(&path, &Overrides::default(), STAGES) {
        // The configuration that a run writes must be valid.
        Ok(plan) => {
            std::fs::write(&path, plan.resolved.to_toml()).unwrap();
            if let Err(problems) = Plan::load(&path, &Overrides::default(), STAGES) {
                panic!("{problems}\nin the written configuration:\n{}", plan.resolved.to_toml());
            }
        }
        Err(problems) => assert!(!problems.to_string().is_empty()),
    }
});
