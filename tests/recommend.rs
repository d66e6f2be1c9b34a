//! Lists for listeners whom no table knows, and lists that are varied.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
};

use crate::workshop::{duet, fail, lists, text, workshop};

/// The first genre of every artist that has one.
fn genres(world: &Path) -> BTreeMap<String, String> {
    let mut reader = csv::Reader::from_path(world.join("catalogue/artists.csv")).expect("the catalogue opens");
    let rows = reader.deserialize::<BTreeMap<String, String>>().map(|row| row.expect("a row"));
    let first = |row: BTreeMap<String, String>| {
        let genre = row["genres"].split('|').next().unwrap_or_default().to_owned();
        (!genre.is_empty()).then(|| (row["artist_id"].clone(), genre))
    };
    rows.filter_map(first).collect()
}

/// The items of lists as `recommend --out` writes them, in their order.
fn listed(path: &Path) -> BTreeMap<String, Vec<String>> {
    let mut lists = BTreeMap::<String, Vec<String>>::new();
    for row in csv::Reader::from_path(path).expect("the lists open").deserialize() {
        let (user, item, rank, _): (String, String, usize, f32) = row.expect("four cells");
        let list = lists.entry(user).or_default();
        list.push(item);
        assert_eq!(rank, list.len());
    }
    lists
}

#[test]
fn somebody_new_gets_a_list_by_what_they_name() {
    let shop = workshop();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let (run, bundle) = (shop.path("run"), shop.path("bundle"));
    let by = |source: &[&str], history: &[&str], more: &[&str]| {
        let file = dir.path().join("list.csv");
        let given = [&["recommend"], source, history, &["--device", "cpu", "--k", "20", "--out", text(&file)], more];
        duet(&given.concat());
        let mut lists = lists(&file);
        let list = lists.remove("new listener").expect("a list");
        assert!(lists.is_empty() && list.len() == 20);
        list
    };
    let of_run = ["--run", text(&run)];
    let popular = dir.path().join("popular.csv");
    let nobody = ["--users", "nobody", "--device", "cpu", "--k", "6", "--out", text(&popular)];
    duet(&[&["recommend"], &of_run[..], &nobody].concat());
    let popular = listed(&popular).remove("nobody").expect("a list");
    let (first, rest) = (popular[0].as_str(), popular[1..3].join(","));
    let plain = by(&of_run, &["--history", &format!("{first},{rest}")], &[]);
    // The bundle has the same towers, and the flag may be repeated.
    let again = by(&["--bundle", text(&bundle)], &["--history", first, "--history", &rest], &[]);
    for ((item, score), (other, same)) in plain.iter().zip(&again) {
        assert!(item == other && (score - same).abs() < 1e-3, "{item} {score}, {other} {same}");
    }
    // What is named decides, and it can be left out.
    assert_ne!(plain, by(&of_run, &["--history", &popular[3..].join(",")], &[]));
    let best: Vec<&str> = plain.iter().take(3).map(|(item, _)| item.as_str()).collect();
    let named = best.join(",");
    let without = by(&of_run, &["--history", &named], &["--exclude-seen"]);
    assert!(without.iter().all(|(item, _)| !best.contains(&item.as_str())), "{without:?} holds one of {named}");

    let unknown = ["recommend", "--run", text(&run), "--device", "cpu", "--history", &format!("{first},nobody at all")];
    fail("duet", &unknown, 1, &["no item has the id or name \"nobody at all\""]);
    fail("duet", &["recommend", "--run", text(&run), "--history", first, "--users", "all"], 2, &["--users"]);
}

#[test]
fn lists_are_varied_where_that_is_asked() {
    let shop = workshop();
    let dir = tempfile::tempdir().expect("a temporary directory");
    let run = shop.path("run");
    let ask = |more: &[&str]| {
        let file = dir.path().join("lists.csv");
        let base = ["recommend", "--run", text(&run), "--device", "cpu", "--users", "all", "--out", text(&file)];
        duet(&[&base[..], more].concat());
        listed(&file)
    };
    let genres = genres(&shop.path("world"));
    let most_of_a_genre = |list: &[String]| {
        let mut counts = BTreeMap::<&String, usize>::new();
        list.iter().filter_map(|item| genres.get(item)).for_each(|genre| *counts.entry(genre).or_default() += 1);
        counts.into_values().max().unwrap_or(0)
    };
    let (plain, bounded) = (ask(&[]), ask(&["--max-per", "genres=2"]));
    assert!(plain.values().any(|list| most_of_a_genre(list) > 2), "the bound would change nothing");
    assert_eq!(bounded.len(), plain.len());
    for (user, list) in &bounded {
        assert!(list.len() == 10 && most_of_a_genre(list) <= 2, "{user}: {list:?}");
        assert_eq!(list[0], plain[user][0]);
    }
    assert_eq!(ask(&["--mmr", "1"]), plain);
    let varied = ask(&["--mmr", "0.3"]);
    let distinct = |lists: &BTreeMap<String, Vec<String>>| -> usize {
        let genres =
            |list: &Vec<String>| list.iter().filter_map(|item| genres.get(item)).collect::<BTreeSet<_>>().len();
        lists.values().map(genres).sum()
    };
    assert!(varied.iter().all(|(user, list)| list[0] == plain[user][0]), "the best item stays first");
    assert!(distinct(&varied) > distinct(&plain), "{} genres, {} before", distinct(&varied), distinct(&plain));

    let base = ["recommend", "--run", text(&run), "--device", "cpu", "--users", "all"];
    fail("duet", &[&base[..], &["--max-per", "colour=2"]].concat(), 1, &["colour", "genres"]);
    fail("duet", &[&base[..], &["--max-per", "genres"]].concat(), 2, &["COLUMN=M"]);
    fail("duet", &[&base[..], &["--mmr", "2"]].concat(), 2, &["from 0 to 1"]);
}
