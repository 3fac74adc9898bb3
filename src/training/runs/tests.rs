use super::*;

#[test]
fn runs_are_numbered_and_the_last_is_the_newest() -> Result<()> {
    let bundle = tempfile::tempdir()?;
    let runs = Runs::of(bundle.path());
    assert!(runs.newest()?.is_none());
    let mut names = vec![];
    for name in [None, Some("wide"), None, Some("a.b-c_1"), None] {
        names.push(runs.begin(name, StartedFrom::Initial)?.name);
    }
    assert_eq!(names, ["001", "wide", "003", "a.b-c_1", "005"]);
    assert_eq!(runs.all()?.iter().map(|run| run.name.as_str()).collect::<Vec<_>>(), names);
    // A folder that somebody else made is no run, and its name is not taken.
    fs::create_dir(bundle.path().join("runs/006"))?;
    assert_eq!(runs.begin(None, StartedFrom::Adapter)?.name, "007");
    let error = runs.named("narrow").unwrap_err();
    assert!(error.hint().is_some_and(|hint| hint.contains("001, wide, 003")), "{:?}", error.hint());
    Ok(())
}

#[test]
fn a_number_beyond_reason_is_refused() -> Result<()> {
    let bundle = tempfile::tempdir()?;
    let runs = Runs::of(bundle.path());
    let mut run = runs.begin(None, StartedFrom::Initial)?;
    run.record.number = u64::MAX;
    run.write()?;
    let error = runs.begin(None, StartedFrom::Initial).unwrap_err();
    assert!(error.to_string().contains("number of the run: expected 4294967296 at most"), "{error}");
    Ok(())
}

#[test]
fn a_name_is_one_plain_folder() -> Result<()> {
    let bundle = tempfile::tempdir()?;
    let runs = Runs::of(bundle.path());
    for name in ["", ".", "..", ".hidden", "a/b", "a\\b", "../x", "ä", "a b", "-x", &"x".repeat(101)] {
        assert!(runs.begin(Some(name), StartedFrom::Initial).is_err(), "{name:?}");
    }
    runs.begin(Some("x"), StartedFrom::Initial)?;
    assert!(runs.begin(Some("x"), StartedFrom::Initial).unwrap_err().to_string().contains("a run of this name is there"));
    Ok(())
}

#[test]
fn how_a_run_ended_is_kept() -> Result<()> {
    let bundle = tempfile::tempdir()?;
    let runs = Runs::of(bundle.path());
    let mut run = runs.begin(None, StartedFrom::Checkpoint(4))?;
    run.end(Ended::Diverged)?;
    let read = runs.named("001")?.record;
    assert_eq!((read.from, read.ended), (StartedFrom::Checkpoint(4), Some(Ended::Diverged)));
    Ok(())
}

#[test]
fn what_a_killed_command_left_is_removed_and_nothing_else() -> Result<()> {
    let bundle = tempfile::tempdir()?;
    let runs = Runs::of(bundle.path());
    let run = runs.begin(None, StartedFrom::Initial)?;
    for place in [bundle.path().to_owned(), bundle.path().join("runs"), run.folder.clone(), run.folder.join("checkpoints")] {
        fs::create_dir(place.join(".peft-onnx-7-AbC123"))?;
        fs::write(place.join(".peft-onnx-7-AbC123/state.safetensors"), "half")?;
        fs::write(place.join(".tmp"), "mine")?;
        fs::write(place.join(".peft-onnx-notes"), "mine")?;
    }
    runs.tidy();
    assert!(!bundle.path().join(".peft-onnx-7-AbC123").exists() && !run.folder.join("checkpoints/.peft-onnx-7-AbC123").exists());
    assert!(bundle.path().join(".tmp").exists() && run.folder.join(".peft-onnx-notes").exists());
    Ok(())
}

#[cfg(unix)]
#[test]
fn links_lead_to_the_newest_run_and_those_of_others_stay() -> Result<()> {
    use std::os::unix::fs::symlink;
    let folder = tempfile::tempdir()?;
    let (bundle, outside) = (folder.path().join("bundle"), folder.path().join("outside"));
    fs::create_dir_all(&bundle)?;
    fs::create_dir_all(outside.join("checkpoints"))?;
    let runs = Runs::of(&bundle);
    for name in ["001", "002"] {
        runs.begin(None, StartedFrom::Initial)?.show(&bundle);
        assert_eq!(fs::read_link(bundle.join("checkpoints"))?, Path::new("runs").join(name).join("checkpoints"));
    }
    for planted in ["../outside/checkpoints", "runs/../../outside/checkpoints"] {
        fs::remove_file(bundle.join("checkpoints"))?;
        symlink(planted, bundle.join("checkpoints"))?;
        runs.begin(None, StartedFrom::Initial)?.show(&bundle);
        assert_eq!(fs::read_link(bundle.join("checkpoints"))?, Path::new(planted));
    }
    fs::remove_dir_all(bundle.join("runs"))?;
    symlink("../outside", bundle.join("runs"))?;
    assert!(runs.begin(None, StartedFrom::Initial).is_err() && runs.all().is_err());
    assert_eq!(fs::read_dir(&outside)?.count(), 1);
    Ok(())
}
