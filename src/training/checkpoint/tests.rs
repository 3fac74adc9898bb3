use super::*;
use crate::data::Order;

fn checkpoint(step: u64) -> Checkpoint {
    let conditions = Conditions {
        precision: "float32".into(),
        bundle: "lora of x".into(),
        data: "d".into(),
        rows: "r".into(),
        batch_size: 4,
        accumulation: 2,
        processes: 1,
        order: Order::Shuffled { seed: 1 },
        seed: 1,
    };
    let state = ["adam_m", "adam_v", "trainable"].map(|name| (name.to_owned(), vec![0.1_f32, -2.5e-30, f32::MIN_POSITIVE]));
    Checkpoint { record: Record::new(step, 20, Cursor { epoch: 1, position: 8 }, conditions, "linear".into()), state: state.into() }
}

/// Writes a checkpoint with an adapter of one file.
fn write(checkpoints: &Checkpoints, step: u64, keep: Option<usize>) -> Result<PathBuf> {
    checkpoints.write(&checkpoint(step), Keep { newest: keep, ..Keep::default() }, &|folder| {
        Ok(fs::write(folder.join("adapter_model.safetensors"), "adapter")?)
    })
}

fn steps(checkpoints: &Checkpoints) -> Vec<u64> {
    checkpoints.steps().expect("the folder is readable").into_iter().map(|(step, _)| step).collect()
}

#[test]
fn what_is_written_is_read_bit_by_bit_and_the_newest_whole_one_is_taken() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let checkpoints = Checkpoints::in_folder(folder.path().to_owned());
    assert!(checkpoints.newest()?.is_none());
    for step in [2, 10, 9] {
        write(&checkpoints, step, None)?;
    }
    let newest = || Ok::<_, Error>(checkpoints.newest()?.map(|(_, checkpoint)| (checkpoint.record.step, checkpoint.state)));
    assert_eq!(newest()?, Some((10, checkpoint(10).state)));
    // One bit of any file that belongs to it.
    for file in [STATE, "adapter_model.safetensors"] {
        let path = folder.path().join("step-10").join(file);
        let whole = fs::read(&path)?;
        let mut damaged = whole.clone();
        *damaged.last_mut().expect("the file is not empty") ^= 1;
        fs::write(&path, damaged)?;
        assert_eq!(newest()?.map(|(step, _)| step), Some(9), "{file}");
        fs::remove_file(&path)?;
        assert_eq!(newest()?.map(|(step, _)| step), Some(9), "without {file}");
        fs::write(&path, whole)?;
        assert_eq!(newest()?.map(|(step, _)| step), Some(10));
    }
    fs::remove_file(folder.path().join("step-10").join(STATE))?;
    write(&checkpoints, 10, None)?;
    assert_eq!(newest()?.map(|(step, _)| step), Some(10), "a damaged one is written again");
    assert_eq!(fs::read_dir(folder.path())?.count(), 3);
    Ok(())
}

#[test]
fn only_the_newest_are_kept_and_what_is_no_checkpoint_stays() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let checkpoints = Checkpoints::in_folder(folder.path().to_owned());
    fs::create_dir(folder.path().join("step-0"))?;
    fs::write(folder.path().join("step-0/precious"), "the user's")?;
    for step in 1..=5 {
        write(&checkpoints, step, Some(2))?;
    }
    assert_eq!(steps(&checkpoints), [0, 4, 5]);
    Ok(())
}

#[test]
fn a_checkpoint_that_cannot_be_written_leaves_nothing() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let checkpoints = Checkpoints::in_folder(folder.path().to_owned());
    write(&checkpoints, 1, None)?;
    assert!(checkpoints.write(&checkpoint(2), Keep { newest: Some(1), ..Keep::default() }, &|_| Err(Error::invalid("no room"))).is_err());
    assert_eq!(steps(&checkpoints), [1]);
    assert_eq!(fs::read_dir(folder.path())?.count(), 1);
    Ok(())
}

#[test]
fn a_full_disk_keeps_no_old_checkpoint_that_would_make_room() -> Result<()> {
    let keep = Keep { newest: Some(1), ..Keep::default() };
    let mut failed = 0;
    for step in 1.. {
        let folder = tempfile::tempdir()?;
        let checkpoints = Checkpoints::in_folder(folder.path().to_owned());
        write(&checkpoints, 1, None)?;
        write(&checkpoints, 2, None)?;
        fault::test::at(step);
        checkpoints.forget_all_but(keep);
        if fault::test::is_left() {
            break;
        }
        failed += 1;
        assert_eq!((steps(&checkpoints), fs::read_dir(folder.path())?.count()), (vec![2], 1), "step {step} fails");
    }
    assert!(failed >= 2, "a folder is made, and the checkpoint is put into it");
    Ok(())
}

/// The record is not among the files whose hashes it has.
#[test]
fn a_place_where_no_run_can_be_is_refused() -> Result<()> {
    for (epoch, position, step, expected) in [
        (u64::MAX, 8, 1, "epoch of the cursor: expected 1 at most, one a step"),
        (2, 8, 1, "epoch of the cursor"),
        (1, 8, 21, "step: expected 20 at most"),
        (1, usize::MAX, 1, "position of the cursor: expected 9 at most, the rows"),
        (1, 10, 1, "position of the cursor"),
    ] {
        let folder = tempfile::tempdir()?;
        let checkpoints = Checkpoints::in_folder(folder.path().to_owned());
        let mut damaged = checkpoint(step);
        damaged.record.cursor = Cursor { epoch, position };
        let path = checkpoints.of_step(step);
        fs::create_dir_all(&path)?;
        fs::write(path.join(RECORD), serde_json::to_vec(&damaged.record).expect("a record"))?;
        let error = Record::read(&path).and_then(|record| record.place_in(9)).unwrap_err();
        assert!(error.to_string().contains(expected) && error.hint().is_some(), "{error}");
    }
    assert_eq!(checkpoint(1).record.place_in(8)?.position, 8, "an epoch has ended");
    Ok(())
}

#[test]
fn another_condition_is_named() {
    let then = checkpoint(1).record.conditions;
    assert!(then.check(&then).is_ok());
    let error = then.check(&Conditions { batch_size: 8, ..then.clone() }).unwrap_err();
    assert_eq!(error.to_string(), "`batch_size`: expected 4, as in the checkpoint, found 8");
    assert!(then.check(&Conditions { data: "e".into(), ..then.clone() }).is_err());
}
