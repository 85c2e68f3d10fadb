use super::*;

fn loaded(text: &str) -> Result<File, Problems> {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("e.toml");
    std::fs::write(&path, text).unwrap();
    load(&path)
}

#[test]
fn arms_change_stages_and_keys() {
    let file = loaded(
        "extends = \"../base.toml\"\n[experiment]\nseeds = [1, 2]\ndetect = 0.01\n[arm.adamw]\n[arm.muon]\n\
         stage.optimize = \"stages/muon.toml\"\nrun.max_steps = 9\n\"pack.lanes\" = 1\n[arm.big.stage.forward]\n\
         layers = 4\n[grid]\n\"optimize.learning_rate\" = [1e-3, 3e-3]\nforward.width = [64]\n",
    );
    let file = file.unwrap();
    assert!(file.base.ends_with("../base.toml") && file.seeds == [1, 2] && file.detect == 0.01);
    let said = |arm: &Arm| -> Vec<String> {
        let said = arm.changes.iter().map(|change| match &change.what {
            Changed::Stage(id, file) => format!("{id} from {}", file.file_name().unwrap().display()),
            Changed::Key(key, value) => format!("{key} = {value}"),
            Changed::Table(id, table) => format!("{id}: {} keys", table.entries.len()),
        });
        said.collect()
    };
    assert_eq!(file.arms.iter().map(|arm| arm.name.as_deref().unwrap()).collect::<Vec<_>>(), ["adamw", "muon", "big"]);
    assert_eq!(said(&file.arms[1]), ["optimize from muon.toml", "run.max_steps = 9", "pack.lanes = 1"]);
    assert_eq!(said(&file.arms[2]), ["forward: 1 keys"]);
    let axes: Vec<_> = file.grid.iter().map(|axis| (axis.key.as_str(), axis.values.len())).collect();
    assert_eq!(axes, [("optimize.learning_rate", 2), ("forward.width", 1)]);
}

#[test]
fn all_problems_are_reported_with_their_lines() {
    let problems = loaded(
        "extends = 3\n[experiment]\nseeds = [1, 1]\nsede = 1\n[arm.\"a/b\"]\nx = 1\nrun.seed = 4\n[grid]\n\
         \"optimize.learning_rate\" = 1e-3\n[stage.forward]\nlayers = 2\n",
    );
    let said = problems.unwrap_err().to_string();
    for (line, piece) in [
        (1, "`extends` must be the name of a file"),
        (3, "`experiment.seeds` has 1 twice"),
        (4, "unknown key `experiment.sede`"),
        (5, "an arm cannot be called `a/b`"),
        (6, "`x` names no key of a stage"),
        (7, "`run.seed` cannot be changed by an experiment"),
        (9, "`grid.optimize.learning_rate` must be a list of values"),
        (10, "`[stage]` is not a table of an experiment"),
    ] {
        let found = said.split("error: ").find(|problem| problem.starts_with(piece));
        assert!(found.is_some_and(|problem| problem.contains(&format!("e.toml:{line}"))), "{piece}: {said}");
    }
    assert!(said.ends_with("8 problems"), "{said}");
}

#[test]
fn a_stage_is_replaced_before_its_keys_are_changed() {
    let text = "extends = \"a.toml\"\n[experiment]\nseeds = [1]\n[arm.muon]\n\"optimize.weight_decay\" = 0.1\n\
                stage.optimize = \"muon.toml\"\n";
    let file = loaded(text).unwrap();
    assert!(matches!(file.arms[0].changes[0].what, Changed::Stage(..)) && file.arms[0].changes.len() == 2);
    let grid = "[grid]\n\"optimize.weight_decay\" = [0, 0.1]\n";
    let said = loaded(&format!("{text}{grid}")).unwrap_err().to_string();
    assert!(said.contains("`optimize.weight_decay` is given by an arm and by the grid"), "{said}");
}

#[test]
fn what_is_missing_is_said() {
    for (text, piece) in [
        ("[experiment]\nseeds = [1]\n", "has no `extends`"),
        ("extends = \"a.toml\"\n", "has no `seeds`"),
        ("extends = \"a.toml\"\n[experiment]\nseeds = []\n", "at least one"),
        ("extends = \"a.toml\"\n[experiment]\nseeds = [1]\n[grid]\n\"a.b\" = []\n", "at least one"),
    ] {
        let said = loaded(text).unwrap_err().to_string();
        assert!(said.contains(piece), "{said}");
    }
    let file = loaded("extends = \"a.toml\"\n[experiment]\nseeds = [1]\n").unwrap();
    assert!(file.arms.len() == 1 && file.arms[0].name.is_none());
}
