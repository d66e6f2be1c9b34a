//! Small generated files through the whole of `import`, good and bad, and the public sets where they are present.

use std::sync::Arc;

use arrow::{
    array::{Float64Array, Int64Array, ListBuilder, StringArray, StringBuilder},
    datatypes::{DataType, Field},
};
use duet_core::{schema::FeatureKind, table::ColumnValues};

use super::*;
use crate::dataset::{Dataset, DatasetKind, parquet_file::Writer};

struct Place(tempfile::TempDir);

impl Place {
    fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    fn file(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.path().join(name);
        fs::write(&path, text).unwrap();
        path
    }

    fn import(&self, options: &ImportOptions) -> Result<(ImportSummary, Dataset)> {
        let summary = import(options, &self.0.path().join("out"), IfExists::Replace)?;
        let dataset = Dataset::open(&summary.out)?;
        Ok((summary, dataset))
    }
}

const EVENTS: &str = "user_id,item_id,timestamp,rating\nb,10,1700000300,5\na,9,1700000100,1\nb,9,1700000200,2\n\
                      b,10,1700000400,3\nc,11,1700000500,4\n";

#[test]
fn sequences_are_sorted_and_the_held_out_part_enters_no_vocabulary() {
    let place = Place::new();
    let mut options = ImportOptions::new(place.file("e.csv", EVENTS));
    options.users = Some(place.file("u.csv", "id,age\nz,30\na,\n"));
    options.schema = SchemaSource::File(place.file("s.toml", "[users]\nage = { kind = \"numeric\" }\n"));
    options.split = SplitSpec::parse("global-time:2023-11-14T22:21:40Z").unwrap().0;
    let (summary, dataset) = place.import(&options).unwrap();
    assert_eq!(dataset.info.kind, DatasetKind::Sequences);
    assert_eq!(dataset.users().unwrap().ids.ids(), ["z", "a", "b"], "the table's order, then the others; never c");
    assert_eq!(dataset.items().unwrap().ids.ids(), ["9", "10"]);
    let timeline = dataset.timeline().unwrap();
    assert_eq!(timeline.offsets, [0, 0, 1, 4]);
    assert_eq!(timeline.items.iter().map(|item| item.0).collect::<Vec<_>>(), [0, 0, 1, 1]);
    assert_eq!(timeline.weights, [1.0, 2.0, 5.0, 3.0]);
    assert_eq!(timeline.timestamps_ms[1], 1_700_000_200_000);
    let test = dataset.test().unwrap();
    assert_eq!((test[0].id.as_str(), test[0].user, test[0].items.as_slice()), ("c", None, &["11".to_owned()][..]));
    assert_eq!(dataset.info.reference_day, Some(19_675));
    assert_eq!(summary.counts, dataset.info.counts);
    assert!(fs::read_to_string(&summary.schema_path).unwrap().contains("numeric"));
    let ColumnValues::Number(ages) = dataset.users().unwrap().column("age").unwrap().values.clone() else { panic!() };
    assert!(ages[0] == 30.0 && ages[1].is_nan() && ages[2].is_nan());
}

#[test]
fn sets_merge_repeats_and_the_hash_ignores_the_order_of_rows() {
    let place = Place::new();
    let hash = |text: &str| {
        let (summary, dataset) = place.import(&ImportOptions::new(place.file("e.tsv", text))).unwrap();
        (summary.merged, dataset.info.split.hash.clone(), dataset.timeline().unwrap().weights)
    };
    let (merged, sets, weights) = hash("userID\tartistID\tweight\n1\t2\t3\n1\t2\t4\n2\t2\t1\n");
    assert_eq!((merged, weights), (1, vec![7.0, 1.0]));
    assert_eq!(sets, hash("userID\tartistID\tweight\n2\t2\t1\n1\t2\t3\n1\t2\t4\n").1);
    assert_ne!(sets, hash("userID\tartistID\tweight\n2\t2\t1\n1\t2\t3\n1\t2\t5\n").1);
}

#[test]
fn parquet_equals_text_and_float_ids_are_whole() {
    let place = Place::new();
    let path = place.0.path().join("e.parquet");
    let fields = vec![
        Field::new("item_id", DataType::Float64, true),
        Field::new("user_id", DataType::Int64, false),
        Field::new("timestamp", DataType::Int64, false),
    ];
    let mut writer = Writer::create(path.clone(), fields).unwrap();
    let items = Float64Array::from(vec![12.0, 7.0, 12.0]);
    let users = Int64Array::from(vec![1, 2, 2]);
    let times = Int64Array::from(vec![1_700_000_000_000, 1_700_000_001_000, 1_700_000_002_000]);
    writer.write(vec![Arc::new(items), Arc::new(users), Arc::new(times)]).unwrap();
    writer.finish().unwrap();
    let (_, parquet) = place.import(&ImportOptions::new(&path)).unwrap();
    let text = place.file("e.csv", "user,item,ts\n1,12.0,1700000000\n2,7,1700000001\n2,12,1700000002\n");
    let (_, text) = place.import(&ImportOptions::new(text)).unwrap();
    assert_eq!(parquet.info.split.hash, text.info.split.hash);

    let path = place.0.path().join("i.parquet");
    let list = DataType::new_list(DataType::Utf8, true);
    let mut writer =
        Writer::create(path.clone(), vec![Field::new("id", DataType::Utf8, false), Field::new("tags", list, true)])
            .unwrap();
    let mut tags = ListBuilder::new(StringBuilder::new());
    tags.values().append_value("a|b");
    tags.append(true);
    tags.append(false);
    writer.write(vec![Arc::new(StringArray::from(vec!["12", "7"])), Arc::new(tags.finish())]).unwrap();
    writer.finish().unwrap();
    let mut options = ImportOptions::new(place.file("e.csv", EVENTS));
    options.items = Some(path);
    options.schema = SchemaSource::File(place.file("s.toml", "[items]\ntags = { kind = \"multi-categorical\" }\n"));
    let (_, dataset) = place.import(&options).unwrap();
    let ColumnValues::TextList(tags) = dataset.items().unwrap().columns[0].values.clone() else { panic!() };
    assert_eq!(tags[..2], [vec!["a|b".to_owned()], vec![]], "a list's own values are not cut");
}

#[test]
fn inference_finds_each_kind_and_skips_what_is_unique() {
    let place = Place::new();
    let mut items = "item_id|title|genres|year|length|released|link|zip\n".replace('|', "\t");
    for item in 0..200 {
        items += &format!(
            "{item}\tThe Title {item}\t{}\t{}\t{}.5\t{:02}-Jan-1995\thttp://x/{item}\t{:05}\n",
            ["rock|pop", "jazz", "pop"][item % 3],
            1990 + item % 5,
            item * 3,
            1 + item % 28,
            item * 37
        );
    }
    let mut options = ImportOptions::new(place.file("e.csv", EVENTS));
    options.items = Some(place.file("i.tsv", &items));
    options.schema = SchemaSource::Infer;
    let (summary, dataset) = place.import(&options).unwrap();
    let columns = &dataset.info.schema.items;
    assert_eq!(columns.keys().collect::<Vec<_>>(), ["genres", "length", "released", "year"]);
    assert_eq!(columns["genres"], FeatureKind::MultiCategorical { separator: "|".into() });
    assert_eq!(columns["length"], FeatureKind::Numeric {});
    assert_eq!(columns["released"], FeatureKind::Date {});
    assert_eq!(columns["year"], FeatureKind::Categorical {});
    assert_eq!(summary.notes.len(), 2, "{:?}", summary.notes);
    assert_eq!(dataset.items().unwrap().name(3), "The Title 3");
}

#[test]
fn lightgcn_files_with_a_given_test_part() {
    let place = Place::new();
    let mut options = ImportOptions::new(place.file("train.txt", "0 3 4\n1 4\n2\n"));
    options.format = Format::LightGcn;
    options.split = SplitSpec::Given;
    options.test = Some(place.file("test.txt", "0 9\n7 3\n"));
    let (_, dataset) = place.import(&options).unwrap();
    assert_eq!(dataset.info.kind, DatasetKind::Sets);
    assert_eq!((dataset.info.counts.events, dataset.info.counts.items, dataset.info.counts.test_users), (3, 2, 2));
    options.test = None;
    assert!(place.import(&options).unwrap_err().to_string().contains("given:FILE"));
    options.interactions = place.file("bad.txt", "0 3\n1 x\n");
    assert!(place.import(&options).unwrap_err().to_string().contains("bad.txt, row 2"));
}

#[test]
fn bad_interactions_name_file_and_row() {
    let place = Place::new();
    for (text, expected) in [
        ("", "e.csv: the file is empty"),
        ("user,item\n", "e.csv: no interactions"),
        ("a,b\n1,2\n", "its columns are: a, b"),
        ("user,item\n1,2\n1\n", "e.csv, row 3: 1 cells"),
        ("user,item\n1,2\n,2\n", "e.csv, row 3: no user id"),
        ("user,item,weight\n1,2,1\n1,3,0\n", "e.csv, row 3: weight 0"),
        ("user,item,weight\n1,2,-1\n", "e.csv, row 2: weight -1"),
        ("user,item,weight\n1,2,nan\n", "e.csv, row 2: weight nan"),
        ("user,item,weight\n1,2,x\n", "e.csv, row 2: weight \"x\""),
        ("user,item,ts\n1,2,1700000000\n1,2,1700000000000\n", "e.csv, row 3: timestamp"),
        ("user,item,ts\n1,2,\n", "e.csv, row 2: timestamp"),
    ] {
        let error = place.import(&ImportOptions::new(place.file("e.csv", text))).unwrap_err().to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
    fs::write(place.0.path().join("e.csv"), b"user,item\n1,\xe9\n").unwrap();
    let options = ImportOptions::new(place.0.path().join("e.csv"));
    assert!(place.import(&options).unwrap_err().to_string().contains("e.csv, row 2: not UTF-8"));
    fs::write(place.0.path().join("e.parquet"), b"PAR1 but not really").unwrap();
    let options = ImportOptions::new(place.0.path().join("e.parquet"));
    assert!(place.import(&options).unwrap_err().to_string().contains("e.parquet"));
    let options = ImportOptions::new(place.0.path().join("missing.csv"));
    assert!(place.import(&options).unwrap_err().to_string().contains("missing.csv"));
    assert!(!place.0.path().join("out").exists());
}

#[test]
fn bad_tables_name_file_and_row() {
    let place = Place::new();
    let schema = "[items]\nsize = { kind = \"numeric\" }\nday = { kind = \"date\" }\n";
    for (text, expected) in [
        ("id,size,day\n1,2,2020-01-01\n1,3,\n", "i.csv, row 3: the id \"1\" occurs a second time"),
        ("id,size\n1,2\n", "no column \"day\"; its columns are: id, size"),
        ("id,size,day\n1,big,\n", "i.csv, row 2: column \"size\": \"big\" is not a number"),
        ("id,size,day\n1,inf,\n", "i.csv, row 2: column \"size\": inf is not finite"),
        ("id,size,day\n1,1,soon\n", "i.csv, row 2: column \"day\": \"soon\" is not a date"),
        ("id,size,day\n1,1\n", "i.csv, row 2: 2 cells"),
        ("", "i.csv: the file is empty"),
    ] {
        let mut options = ImportOptions::new(place.file("e.csv", EVENTS));
        options.items = Some(place.file("i.csv", text));
        options.schema = SchemaSource::File(place.file("s.toml", schema));
        let error = place.import(&options).unwrap_err().to_string();
        assert!(error.contains(expected), "{text:?}: {error}");
    }
}

/// The public sets, where they are present.
fn real(name: &str) -> Option<PathBuf> {
    let default = concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data");
    let dir = PathBuf::from(std::env::var("DUET_DATA").unwrap_or_else(|_| default.to_owned())).join(name);
    if !dir.is_dir() {
        eprintln!("skipped: {} is not there", dir.display());
        return None;
    }
    Some(dir)
}

fn preset_counts(name: &str, dir: &Path, split: &str) -> (Counts, Dataset) {
    let place = Place::new();
    let spec = SplitSpec::parse(split).unwrap().0;
    let summary = import_preset(name, dir, &spec, None, &place.0.path().join("out"), IfExists::Fail).unwrap();
    let dataset = Dataset::open(&summary.out).unwrap();
    dataset.timeline().unwrap();
    dataset.items().unwrap();
    (summary.counts, dataset)
}

#[test]
fn movielens_100k_has_its_published_counts() {
    let Some(dir) = real("movielens-100k") else { return };
    let (counts, dataset) = preset_counts("movielens-100k", &dir, "none");
    assert_eq!((counts.users, counts.items, counts.events), (943, 1682, 100_000));
    assert_eq!(dataset.info.schema.items.len(), 2);
    let (counts, _) = preset_counts("movielens-100k", &dir, "leave-last-out");
    assert_eq!((counts.events, counts.test_events, counts.test_users), (99_057, 943, 943));
    let (counts, _) = preset_counts("movielens-100k", &dir, "global-time:0.8");
    assert_eq!((counts.events, counts.test_events, counts.test_users), (79_999, 20_001, 301));
}

#[test]
fn hetrec_has_its_published_counts() {
    let Some(dir) = real("hetrec2011-lastfm-2k") else { return };
    let (counts, dataset) = preset_counts("hetrec-lastfm-2k", &dir, "none");
    assert_eq!((counts.users, counts.items, counts.events), (1892, 17_632, 92_834));
    assert!(dataset.info.has_weight && !dataset.info.has_time);
}

#[test]
fn movielens_1m_layout_and_unknown_presets() {
    let place = Place::new();
    place.file("ratings.dat", "1::2::5::978300760\n1::3::1::978300761\n");
    place.file("users.dat", "1::F::1::10::48067\n");
    fs::write(
        place.0.path().join("movies.dat"),
        b"2::Mis\xe9rables, Les (1995)::Drama|Musical\n3::X: Y (1996)::Comedy\n",
    )
    .unwrap();
    let out = place.0.path().join("out");
    let run = |name| import_preset(name, place.0.path(), &SplitSpec::None, None, &out, IfExists::Fail);
    let dataset = Dataset::open(&run("movielens-1m").unwrap().out).unwrap();
    assert_eq!(dataset.items().unwrap().names[0], "Misérables, Les (1995)");
    assert_eq!(dataset.info.counts.events, 2);
    assert!(run("movielens").unwrap_err().to_string().contains("movielens-100k, movielens-1m, hetrec-lastfm-2k"));
}
