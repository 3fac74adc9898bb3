//! What a data file can teach, told from its columns before anything is known of a model.

use std::collections::BTreeSet;
use std::path::Path;

use indexmap::IndexMap;
use serde_json::Value;

use super::column_map::{ColumnMap, Renamed};
use super::meanings::plain;
use super::reading::Reading;
use super::record::RowFile;
use super::{classes, fields, roles};
use crate::adapter::config::Task;
use crate::error::{Context, Result};
use crate::measure::float;

/// Different values of a column that are kept; one with more has no classes.
const MOST_VALUES: usize = 200;
/// Of so many rows a class has one at least.
const ROWS_OF_CLASS: f64 = 3.0;
/// Letters of a class's name, at most.
const LONGEST_NAME: usize = 60;

/// The columns of a data file.
#[derive(Clone, Debug)]
pub struct Survey {
    rows: usize,
    columns: IndexMap<String, Column>,
}

/// What the values of a column are.
#[derive(Clone, Debug, Default)]
struct Column {
    /// Its name in the file.
    name: String,
    rows: usize,
    lists: usize,
    numbers: usize,
    fractions: usize,
    /// Values with a letter in them.
    worded: usize,
    longest: usize,
    /// Different values, as long as they are few.
    values: BTreeSet<String>,
}

impl Column {
    fn add(&mut self, value: &Value) {
        let text = value.as_str().map_or_else(|| value.to_string(), |text| text.trim().to_owned());
        if value.is_null() || text.is_empty() {
            return;
        }
        self.rows += 1;
        self.lists += usize::from(value.is_array() || text.starts_with('['));
        if let Ok(number) = text.parse::<f64>() {
            self.numbers += 1;
            self.fractions += usize::from(number.fract() != 0.0);
        }
        self.worded += usize::from(text.chars().any(char::is_alphabetic));
        self.longest = self.longest.max(text.chars().count());
        if self.values.len() <= MOST_VALUES {
            self.values.insert(text);
        }
    }

    fn has_lists(&self) -> bool {
        self.lists > 0
    }

    fn has_fractions(&self) -> bool {
        self.numbers == self.rows && self.fractions > 0
    }

    /// Whether it looks like the classes of rows: few names or whole numbers, each several times.
    fn has_classes(&self) -> bool {
        let few =
            self.values.len() >= 2 && self.values.len() <= MOST_VALUES && float(self.values.len()) * ROWS_OF_CLASS <= float(self.rows);
        few && self.longest <= LONGEST_NAME && self.lists == 0 && self.fractions == 0
    }

    /// Whether it looks like texts that people wrote; dates and numbers of tickets have no letters.
    fn has_texts(&self) -> bool {
        self.lists == 0 && self.numbers < self.rows && self.worded > 0 && !self.has_classes()
    }
}

/// Columns of which each group has one in every row, and the task that such rows teach. The first that fits is the most likely.
struct Sign {
    task: Task,
    groups: &'static [&'static [&'static str]],
}

const LABEL: &[&str] = &["label", "labels"];
const TEXT: &[&str] = &["text", "sentence", "sentence1", "premise", "text1", "text_a", "question1", "question", "query"];

/// Two texts, and a number for how alike they are.
const SCORED: &[&[&str]] = &[&["sentence1", "text1", "text_a"], &["sentence2", "text2", "text_b"], &["score", "similarity"]];

/// Two texts, and a label: their class, or for a model of vectors how alike they are.
const LABELLED: &[&[&str]] = &[&["sentence1", "text1", "text_a"], &["sentence2", "text2", "text_b"], LABEL];

/// A sound, and what is said in it.
const HEARD: &[&[&str]] = &[&["audio"], &["text"]];

/// What columns tell. The label of a text tells three tasks apart by its values.
const SIGNS: &[Sign] = &[
    Sign { task: Task::ImageCls, groups: &[&["image", "pixel_values", "file_name"], LABEL] },
    Sign { task: Task::AudioCls, groups: &[&["audio", "file_name"], LABEL] },
    Sign { task: Task::Ctc, groups: HEARD },
    Sign { task: Task::SpeechSeq2Seq, groups: HEARD },
    Sign { task: Task::Seq2SeqLm, groups: &[&["image"], &["text"]] },
    Sign { task: Task::Qa, groups: &[&["question"], &["context"], &["answers"]] },
    Sign { task: Task::Preference, groups: &[&["chosen"], &["rejected"]] },
    Sign { task: Task::Reward, groups: &[&["chosen"], &["rejected"]] },
    Sign { task: Task::TokenCls, groups: &[&["tokens", "words"], &["tags", "ner_tags", "labels"]] },
    Sign { task: Task::TokenCls, groups: &[&["text"], &["entities"]] },
    Sign { task: Task::Embedding, groups: &[&["anchor", "query", "question"], &["positive"]] },
    Sign { task: Task::Embedding, groups: SCORED },
    Sign { task: Task::Rerank, groups: &[&["query", "question"], &["passage", "document", "answer"], &["label", "score", "relevance"]] },
    Sign { task: Task::Regression, groups: &[TEXT, &["score"]] },
    Sign { task: Task::SeqCls, groups: &[TEXT, LABEL] },
    Sign { task: Task::Seq2SeqLm, groups: &[&["prompt"], &["completion"]] },
    Sign { task: Task::CausalLm, groups: &[&["messages", "conversations"]] },
    Sign { task: Task::CausalLm, groups: &[&["prompt"], &["completion"]] },
    Sign { task: Task::CausalLm, groups: &[&["instruction"], &["output"]] },
    Sign { task: Task::CausalLm, groups: &[&["text"]] },
    Sign { task: Task::MaskedLm, groups: &[&["text"]] },
    Sign { task: Task::Embedding, groups: &[&["anchor", "query", "question"], &["passage", "document", "answer"]] },
];

/// The classes that labels tell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Classes {
    /// How many.
    pub count: usize,
    /// Their names in alphabetical order, if labels are names.
    pub names: Vec<String>,
}

impl Survey {
    /// Looks at the columns of a data file, under the roles that they were given.
    ///
    /// # Errors
    /// A file that cannot be read.
    pub fn read(path: &Path, columns: &[Renamed]) -> Result<Self> {
        let mut found: IndexMap<String, Column> = IndexMap::new();
        let mut rows = 0;
        RowFile::open(path)?.each(&mut |record| {
            rows += 1;
            for (name, value) in &record.fields {
                let given = columns.iter().find(|renamed| renamed.column() == name).map(|renamed| renamed.role().to_owned());
                // What the user named is called so from here on.
                let (role, called) = given.map_or_else(|| (plain(name), name.clone()), |role| (role.clone(), role));
                found.entry(role).or_insert_with(|| Column { name: called, ..Column::default() }).add(value);
            }
            Ok(())
        })?;
        found.retain(|name, column| column.rows > 0 && name != roles::IGNORED);
        Ok(Self { rows, columns: found })
    }

    /// The number of rows.
    #[must_use]
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// The names of the columns, as the file and the user have them.
    #[must_use]
    pub fn columns(&self) -> Vec<&str> {
        self.columns.values().map(|column| column.name.as_str()).collect()
    }

    /// Whether there is a column of this name.
    #[must_use]
    pub fn has(&self, column: &str) -> bool {
        self.columns.contains_key(&plain(column))
    }

    /// The tasks that such rows teach, the most likely first.
    #[must_use]
    pub fn tasks(&self) -> Vec<Task> {
        let mut tasks: Vec<Task> = vec![];
        for task in SIGNS.iter().filter(|sign| self.has_all(sign.groups)).map(|sign| self.by_label(sign.task)) {
            if !tasks.contains(&task) {
                tasks.push(task);
            }
        }
        tasks
    }

    /// The loss of texts with a number beside them, which the usual loss of embeddings does not read: of two texts and a third that is far, what a
    /// teacher says of both (margin-mse), of two texts, how alike they are (cosent).
    #[must_use]
    pub fn loss_of_scores(&self) -> Option<&'static str> {
        let has = |names: &[&str]| names.iter().any(|name| self.columns.contains_key(*name));
        let is_scored = self.has_all(SCORED) || (has(&["positive"]) && has(&["score", "label"]));
        let is_far = has(&["negative", "negative_1", "hard_negative"]);
        is_scored.then_some(if is_far { "margin-mse" } else { "cosent" })
    }

    /// The loss of embeddings of two texts whose label says how alike they are: 0 or 1 (contrastive), or fractions (cosent). Other whole numbers are classes.
    #[must_use]
    pub fn loss_of_labels(&self) -> Option<&'static str> {
        let label = LABEL.iter().find_map(|name| self.columns.get(*name)).filter(|_| self.has_all(LABELLED))?;
        let is_either = label.values.iter().all(|value| value.parse::<f64>().is_ok_and(|value| [0.0, 1.0].contains(&value)));
        match label {
            _ if is_either => Some("contrastive"),
            label if label.has_fractions() => Some("cosent"),
            _ => None,
        }
    }

    fn has_all(&self, groups: &[&[&str]]) -> bool {
        groups.iter().all(|names| names.iter().any(|name| self.columns.contains_key(*name)))
    }

    /// Lists of labels are several labels, numbers with fractions are no classes.
    fn by_label(&self, task: Task) -> Task {
        let label = LABEL.iter().find_map(|name| self.columns.get(*name));
        match label {
            Some(label) if task == Task::SeqCls && label.has_lists() => Task::MultiLabel,
            Some(label) if task == Task::SeqCls && label.has_fractions() => Task::Regression,
            _ => task,
        }
    }

    /// A text and its class, where no column is called so, by their names in the file: of two columns, the one with few values that come again and
    /// again is the class.
    #[must_use]
    pub fn text_and_label(&self) -> Option<[&str; 2]> {
        let (texts, labels) = (self.texts(), self.labels());
        // Columns that have names of their own for what they are need no guess.
        let is_told = SIGNS.iter().any(|sign| sign.groups.len() > 1 && self.has_all(sign.groups));
        let has_label = is_told || LABEL.iter().any(|name| self.columns.contains_key(*name));
        let different = |name: &str| self.columns[name].values.len();
        let pair = match (&texts[..], &labels[..]) {
            _ if has_label => return None,
            ([text], [label]) => [text, label],
            // Of few rows, texts come again and again as well, but there are more of them.
            ([], [one, other]) if different(one) >= 2 * different(other) => [one, other],
            ([], [one, other]) if different(other) >= 2 * different(one) => [other, one],
            _ => return None,
        };
        Some(pair.map(|role| self.columns[role.as_str()].name.as_str()))
    }

    /// What might be a text and its class where nothing tells for sure, by their names in the file: the longest texts, and the fewest values.
    #[must_use]
    pub fn likely_text_and_label(&self) -> Option<[&str; 2]> {
        let label = self.labels().into_iter().min_by_key(|name| self.columns[*name].values.len())?;
        let text = self.texts().into_iter().filter(|name| *name != label).max_by_key(|name| self.columns[*name].longest)?;
        Some([text, label].map(|role| self.columns[role].name.as_str()))
    }

    /// The columns that may be classes.
    fn labels(&self) -> Vec<&String> {
        self.columns.keys().filter(|name| !TEXT.contains(&name.as_str()) && self.columns[*name].has_classes()).collect()
    }

    /// The columns that may be texts.
    fn texts(&self) -> Vec<&String> {
        self.columns.keys().filter(|name| TEXT.contains(&name.as_str()) || self.columns[*name].has_texts()).collect()
    }
}

/// The classes that the labels of a file tell, for a task that has some.
///
/// # Errors
/// A file that cannot be read; labels that are none.
pub fn classes_of(path: &Path, task: Task, columns: &ColumnMap) -> Result<Classes> {
    let reading = Reading { columns, ..Reading::for_task(task) };
    let file = RowFile::open(path)?;
    let assigned = roles::assign(&file.survey()?, path, &reading).in_file(path)?;
    let (mut labels, mut lists) = (classes::Labels::new(&reading), vec![]);
    file.each(&mut |mut record| {
        assigned.read(&mut record)?;
        lists.extend(LABEL.iter().find_map(|name| record.fields.get(*name)).map(numbers));
        labels.add(&record)
    })?;
    if let Some(names) = labels.settle().in_file(path)?.names.filter(|names| !names.is_empty()) {
        return Ok(Classes { count: names.len(), names });
    }
    Ok(Classes { count: numbered(&lists, task), names: vec![] })
}

/// The number of classes whose labels are numbers.
fn numbered(lists: &[Vec<u64>], task: Task) -> usize {
    // A 0 or a 1 for each label.
    let length = lists.first().map_or(0, Vec::len);
    let is_for_each =
        task == Task::MultiLabel && length > 1 && lists.iter().all(|list| list.len() == length && list.iter().all(|number| *number < 2));
    let largest = lists.iter().flatten().max().and_then(|largest| usize::try_from(*largest).ok());
    if is_for_each { length } else { largest.map_or(0, |largest| largest + 1) }
}

fn numbers(value: &Value) -> Vec<u64> {
    let value = fields::json(value);
    value.as_array().map_or(std::slice::from_ref(&*value), Vec::as_slice).iter().filter_map(classes::number).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn survey(name: &str, text: &str) -> Result<Survey> {
        let folder = tempfile::tempdir()?;
        let path = folder.path().join(name);
        std::fs::write(&path, text)?;
        Survey::read(&path, &[])
    }

    #[test]
    fn columns_tell_the_task() -> Result<()> {
        struct Row(&'static str, &'static [Task]);
        for Row(line, tasks) in [
            Row(r#"{"text": "a", "label": "x"}"#, &[Task::SeqCls, Task::CausalLm, Task::MaskedLm]),
            Row(r#"{"Text": "a", "Label": 1}"#, &[Task::SeqCls, Task::CausalLm, Task::MaskedLm]),
            Row(r#"{"text": "a", "label": 0.5}"#, &[Task::Regression, Task::CausalLm, Task::MaskedLm]),
            Row(r#"{"sentence": "a", "labels": ["x", "y"]}"#, &[Task::MultiLabel]),
            Row(r#"{"premise": "a", "hypothesis": "b", "label": 1}"#, &[Task::SeqCls]),
            Row(r#"{"prompt": "a", "completion": "b"}"#, &[Task::Seq2SeqLm, Task::CausalLm]),
            Row(r#"{"messages": []}"#, &[Task::CausalLm]),
            Row(r#"{"prompt": "a", "chosen": "b", "rejected": "c"}"#, &[Task::Preference, Task::Reward]),
            Row(r#"{"question": "a", "context": "b", "answers": ["c"]}"#, &[Task::Qa]),
            Row(r#"{"tokens": ["a"], "ner_tags": ["O"]}"#, &[Task::TokenCls]),
            Row(r#"{"query": "a", "positive": "b"}"#, &[Task::Embedding]),
            Row(r#"{"query": "a", "passage": "b", "label": 1}"#, &[Task::Rerank, Task::SeqCls, Task::Embedding]),
            Row(r#"{"image": "a.png", "label": "cat"}"#, &[Task::ImageCls]),
            Row(r#"{"file_name": "a.wav", "label": "cat"}"#, &[Task::ImageCls, Task::AudioCls]),
            Row(r#"{"audio": "a.wav", "text": "a dog"}"#, &[Task::Ctc, Task::SpeechSeq2Seq, Task::CausalLm, Task::MaskedLm]),
            Row(r#"{"image": "a.png", "text": "a dog"}"#, &[Task::Seq2SeqLm, Task::CausalLm, Task::MaskedLm]),
            Row(r#"{"sentence1": "a", "sentence2": "b", "score": 0.5}"#, &[Task::Embedding, Task::Regression]),
            Row(r#"{"nonsense": 1}"#, &[]),
        ] {
            assert_eq!(survey("rows.jsonl", line)?.tasks(), tasks, "{line}");
        }
        Ok(())
    }

    #[test]
    fn texts_with_numbers_have_losses_of_their_own() -> Result<()> {
        for (line, loss) in [
            (r#"{"sentence1": "a", "sentence2": "b", "score": 0.5}"#, Some("cosent")),
            (r#"{"text_a": "a", "text_b": "b", "similarity": 4.5}"#, Some("cosent")),
            (r#"{"anchor": "a", "positive": "b", "label": 1}"#, Some("cosent")),
            (r#"{"anchor": "a", "positive": "b", "negative": "c", "score": 3.5}"#, Some("margin-mse")),
            (r#"{"anchor": "a", "positive": "b", "negative": "c"}"#, None),
            (r#"{"query": "a", "positive": "b"}"#, None),
        ] {
            assert_eq!(survey("rows.jsonl", line)?.loss_of_scores(), loss, "{line}");
        }
        Ok(())
    }

    #[test]
    fn labels_of_pairs_that_are_no_classes_say_how_alike_they_are() -> Result<()> {
        for (text, loss) in [
            ("sentence1,sentence2,label\na,b,0\nc,d,1\n", Some("contrastive")),
            ("text1,text2,labels\na,b,1.0\nc,d,1.0\n", Some("contrastive")),
            ("sentence1,sentence2,label\na,b,0.25\nc,d,1\n", Some("cosent")),
            ("sentence1,sentence2,label\na,b,0\nc,d,2\n", None),
            ("sentence1,sentence2,label\na,b,same\nc,d,other\n", None),
            ("sentence,label\na,0\nc,1\n", None),
        ] {
            assert_eq!(survey("rows.csv", text)?.loss_of_labels(), loss, "{text}");
        }
        Ok(())
    }

    #[test]
    fn classes_of_tables_are_numbers_in_text() -> Result<()> {
        let folder = tempfile::tempdir()?;
        for (name, text, count) in [
            ("rows.csv", "text,label\na,0\nb,1\n", 2),
            ("rows.csv", "text,label\na,0.0\nb,1.0\n", 2),
            ("rows.csv", "text,label\na,True\nb,False\n", 2),
            ("rows.tsv", "text\tlabel\na\t4\nb\t1\n", 5),
        ] {
            let path = folder.path().join(name);
            std::fs::write(&path, text)?;
            let found = classes_of(&path, Task::SeqCls, &ColumnMap::default())?;
            assert_eq!((found.count, found.names), (count, vec![]), "{text}");
        }
        Ok(())
    }

    #[test]
    fn a_column_with_few_values_beside_a_text_is_its_class() -> Result<()> {
        let rows = |label: &dyn Fn(usize) -> String| {
            (0..12).map(|row| format!("some long words number {row},{}", label(row))).collect::<Vec<_>>().join("\n")
        };
        let csv = |head: &str, label: &dyn Fn(usize) -> String| format!("{head}\n{}", rows(label));
        let found = survey("rows.csv", &csv("body,category", &|row| ["bug", "praise", "bill"][row % 3].to_owned()))?;
        assert_eq!(found.text_and_label(), Some(["body", "category"]));
        let found = survey("rows.csv", &csv("Message Body,Category", &|row| ["bug", "praise", "bill"][row % 3].to_owned()))?;
        assert_eq!(found.text_and_label(), Some(["Message Body", "Category"]), "as the file writes them");
        let found = survey("rows.csv", &csv("body,id", &|row| row.to_string()))?;
        assert_eq!(found.text_and_label(), None, "every value once");
        let found = survey("rows.csv", &csv("text,label", &|row| (row % 2).to_string()))?;
        assert_eq!(found.text_and_label(), None, "its name tells it");
        let found = survey("rows.csv", &csv("sentence1,sentence2,score", &|row| format!("{},{row}", ["a", "b"][row % 2])))?;
        assert_eq!(found.text_and_label(), None, "two texts and a score");
        let found = survey(
            "rows.csv",
            &csv("Betreff,Thema,Datum,Nr", &|row| format!("{},2024-01-{:02},{row}", ["bug", "bill"][row % 2], row + 1)),
        )?;
        assert_eq!(found.text_and_label(), Some(["Betreff", "Thema"]), "dates and numbers are no texts");
        let found = survey("rows.csv", &csv("Betreff,Thema,Kunde", &|row| format!("{},C{row}", ["bug", "bill"][row % 2])))?;
        assert_eq!((found.text_and_label(), found.likely_text_and_label()), (None, Some(["Betreff", "Thema"])), "two texts");
        Ok(())
    }

    #[test]
    fn classes_are_counted_as_training_will_number_them() -> Result<()> {
        struct Row(Task, &'static str, usize, &'static [&'static str]);
        let folder = tempfile::tempdir()?;
        let path = folder.path().join("rows.jsonl");
        for Row(task, text, count, names) in [
            Row(
                Task::SeqCls,
                "{\"text\":\"a\",\"label\":\"no\"}\n{\"text\":\"b\",\"label\":\"yes\"}\n{\"text\":\"c\",\"label\":\"no\"}",
                2,
                &["no", "yes"],
            ),
            Row(Task::SeqCls, "{\"text\":\"a\",\"label\":0}\n{\"text\":\"b\",\"label\":3}", 4, &[]),
            Row(Task::SeqCls, "{\"text\":\"a\",\"label\":\"0\"}\n{\"text\":\"b\",\"label\":\"2.0\"}", 3, &[]),
            Row(Task::SeqCls, "{\"text\":\"a\",\"label\":false}\n{\"text\":\"b\",\"label\":true}", 2, &[]),
            Row(Task::SeqCls, "{\"text\":\"a\",\"label\":\"True\"}\n{\"text\":\"b\",\"label\":\"False\"}", 2, &[]),
            Row(Task::SeqCls, "{\"text\":\"a\",\"label\":\"LABEL_1\"}\n{\"text\":\"b\",\"label\":\"LABEL_3\"}", 4, &[]),
            Row(Task::MultiLabel, "{\"text\":\"a\",\"labels\":[true,false,true]}\n{\"text\":\"b\",\"labels\":[false,false,true]}", 3, &[]),
            Row(Task::MultiLabel, "{\"text\":\"a\",\"labels\":[\"x\"]}\n{\"text\":\"b\",\"labels\":[\"y\",\"x\"]}", 2, &["x", "y"]),
            Row(Task::MultiLabel, "{\"text\":\"a\",\"labels\":[0,1,0]}\n{\"text\":\"b\",\"labels\":[1,1,0]}", 3, &[]),
            Row(Task::TokenCls, "{\"tokens\":[\"a\",\"b\"],\"tags\":[\"O\",\"B-X\"]}", 2, &["B-X", "O"]),
        ] {
            std::fs::write(&path, text)?;
            let found = classes_of(&path, task, &ColumnMap::default())?;
            assert_eq!((found.count, found.names), (count, names.iter().map(ToString::to_string).collect::<Vec<_>>()), "{text}");
        }
        Ok(())
    }
}
