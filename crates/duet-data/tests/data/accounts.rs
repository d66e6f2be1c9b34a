//! Accounts from CSV and Postgres: the same rows give the same accounts, and what is personal stays inside.

use std::{
    io::{Read, Write},
    net::{TcpListener, TcpStream},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use chrono::NaiveDate;
use duet_core::artifact::IfExists;
use duet_data::accounts::{
    Account, AccountColumns, AccountRules, AccountSource, Connection, PostgresSource, Retry, TableName, UserKey, read,
};
use duet_data::world::{AccountsTable, WorldOptions, generate, load_accounts};
use rustls::pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::services::{Schema, sql};

const EDGES: [u32; 5] = [18, 25, 35, 45, 55];

/// Every value here is personal, and none may be seen outside the reader.
const ROWS: [&str; 5] = [
    "u-000017,ada.lovelace@example.org,Ada Lovelace,1990-12-10,Female,59.91387,10.75225,no,+990123456789,2024-01-05T00:00:00+14:00",
    "u-000042,charles.babbage@example.org,Charles Babbage,2001-12-26,male,-23.55052,-46.63331,BR,,2025-02-01T12:30:00.250Z",
    "u-000043,grace.hopper@example.org,Grace Hopper,,,,,us,+990987654321,2019-06-01T00:00:00Z",
    "u-000044,alan.turing@example.org,Alan Turing,1912-06-23,,,,,,2019-06-01T00:00:00Z",
    "u-000045,emmy.noether@example.org,Emmy Noether,2025-02-28,FEMALE,49.59099,11.00783,de,,2019-06-01T00:00:00Z",
];
const HEADER: &str = "user_id,email,full_name,birth_date,gender,lat,lon,country,phone,created_at";
const TABLE: &str = "CREATE TABLE accounts (user_id text, email text, full_name text, birth_date date, gender text, \
                     lat double precision, lon double precision, country text, phone text, created_at timestamptz);";

fn key() -> UserKey {
    UserKey::new(b"a key for tests only").unwrap()
}

fn read_with(source: &AccountSource) -> Result<Vec<Account>, String> {
    let reference_day = NaiveDate::from_ymd_opt(2025, 3, 3).unwrap();
    let key = key();
    let rules = AccountRules { user_key: &key, age_edges: &EDGES, reference_day };
    read(source, &rules).map_err(|error| format!("{error} {error:?}"))
}

fn csv(dir: &Path, lines: &[&str]) -> Result<Vec<Account>, String> {
    let path = dir.join("accounts.csv");
    std::fs::write(&path, lines.join("\n")).unwrap();
    read_with(&AccountSource::Csv(path))
}

fn source(schema: &Schema, table: &str) -> PostgresSource {
    let url = format!("{}?application_name={}&options=-c%20search_path%3D{}", schema.url, schema.name, schema.name);
    let mut source = PostgresSource::new(Connection::new(Some(&url)).unwrap());
    source.table = TableName { schema: Some(schema.name.clone()), name: table.to_owned() };
    source.retry =
        Retry { attempts: 3, first_wait: Duration::from_millis(20), longest_wait: Duration::from_millis(50) };
    source
}

fn postgres(source: &PostgresSource) -> Result<Vec<Account>, String> {
    read_with(&AccountSource::Postgres(Box::new(source.clone())))
}

/// Loads CSV lines (with a header) into a table of the schema.
fn load(schema: &Schema, table: &str, lines: &[&str]) {
    for line in lines {
        let values: Vec<String> = line
            .split(',')
            .map(|value| if value.is_empty() { "NULL".to_owned() } else { format!("'{}'", value.replace('\'', "''")) })
            .collect();
        schema.sql(&format!("INSERT INTO {table} VALUES ({})", values.join(", ")));
    }
}

fn check_silent(text: &str) {
    for value in ROWS.iter().flat_map(|row| row.split(',')).filter(|value| value.len() > 6) {
        assert!(!text.contains(value), "{value} in {text}");
    }
}

#[test]
fn a_row_becomes_what_features_need_and_nothing_more() {
    let dir = tempfile::tempdir().unwrap();
    let mut lines = vec![HEADER];
    lines.extend(ROWS);
    let accounts = csv(dir.path(), &lines).unwrap();
    let shown: Vec<String> = accounts
        .iter()
        .map(|account| {
            let text = |value: &Option<Arc<str>>| value.as_deref().unwrap_or("-").to_owned();
            format!(
                "{} {} {} {} {}",
                text(&account.age_bucket),
                text(&account.gender),
                text(&account.place.city),
                text(&account.place.country),
                account.created_ms.unwrap()
            )
        })
        .collect();
    assert_eq!(
        shown,
        [
            "25-34 female Oslo, Oslo, NO NO 1704362400000",
            "18-24 male Sao Paulo, Sao Paulo, BR BR 1738413000250",
            "- - - US 1559347200000",
            "55+ - - - 1559347200000",
            "<18 female Erlangen, Bavaria, DE DE 1559347200000",
        ]
    );
    assert_eq!(accounts[0].pseudonym, key().pseudonym_bytes("u-000017"));
    check_silent(&format!("{accounts:?}"));
}

#[test]
fn csv_and_postgres_give_the_same_accounts() {
    let Some(schema) = Schema::create() else { return };
    let dir = tempfile::tempdir().unwrap();
    schema.sql(TABLE);
    load(&schema, "accounts", &ROWS);
    let mut lines = vec![HEADER];
    lines.extend(ROWS);
    let expected = csv(dir.path(), &lines).unwrap();
    assert_eq!(postgres(&source(&schema, "accounts")).unwrap(), expected);

    // Other types of the same columns, under other names, in a view.
    schema.sql(
        "CREATE TYPE gender AS ENUM ('Female', 'male', 'FEMALE');
         CREATE VIEW other AS SELECT user_id::varchar AS \"the \"\"id\"\"\", birth_date::timestamp AS born,
             gender::gender AS gender, lat::numeric(9, 6) AS lat, lon::numeric(9, 6) AS lon, country::char(5) AS home,
             created_at::timestamptz AT TIME ZONE 'UTC' AS since FROM accounts",
    );
    let mut other = source(&schema, "other");
    let name = |text: &str| Some(text.to_owned());
    other.columns = AccountColumns {
        user_id: "the \"id\"".into(),
        birth_date: name("born"),
        country: name("home"),
        created_at: name("since"),
        ..AccountColumns::default()
    };
    assert_eq!(postgres(&other).unwrap(), expected);

    // Without the features nothing but the id is read.
    let none = AccountColumns {
        age: None,
        birth_date: None,
        gender: None,
        lat: None,
        lon: None,
        country: None,
        created_at: None,
        ..AccountColumns::default()
    };
    let ids = PostgresSource { columns: none, ..source(&schema, "accounts") };
    assert!(postgres(&ids).unwrap().iter().zip(&expected).all(|(bare, full)| {
        bare.pseudonym == full.pseudonym && bare.age_bucket.is_none() && bare.place.country.is_none()
    }));

    // Numbers and UUIDs as ids, ages instead of birth dates.
    schema.sql(
        "CREATE TABLE numbers AS SELECT 4200000000017::bigint AS user_id, 30::smallint AS age, NULL::text AS gender;
         CREATE TABLE uuids AS SELECT 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A11'::uuid AS user_id, 17 AS age, ' ' AS gender",
    );
    let columns = AccountColumns {
        age: name("age"),
        birth_date: None,
        lat: None,
        lon: None,
        country: None,
        created_at: None,
        ..AccountColumns::default()
    };
    for (table, id, bucket) in
        [("numbers", "4200000000017", "25-34"), ("uuids", "a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11", "<18")]
    {
        let accounts = postgres(&PostgresSource { columns: columns.clone(), ..source(&schema, table) }).unwrap();
        assert_eq!(accounts[0].pseudonym, key().pseudonym_bytes(id));
        assert_eq!((accounts[0].age_bucket.as_deref(), &accounts[0].gender), (Some(bucket), &None));
    }
}

#[test]
fn a_world_is_the_same_from_its_file_and_from_postgres() {
    let Some(schema) = Schema::create() else { return };
    let dir = tempfile::tempdir().unwrap();
    let options = WorldOptions { users: 3_000, artists: 20, days: 2, truth_days: 1, ..WorldOptions::default() };
    let connection = Connection::new(Some(&schema.url)).unwrap();
    let mut table = AccountsTable { connection, schema: Some(schema.name.clone()), overwrite: false };
    assert_eq!(load_accounts(&options, &table).unwrap(), 3_000);
    let world = dir.path().join("world");
    generate(&options, &world, IfExists::Fail).unwrap();
    let from_file = read_with(&AccountSource::Csv(world.join("accounts.csv"))).unwrap();
    assert_eq!(postgres(&source(&schema, "accounts")).unwrap(), from_file);
    assert!(from_file.iter().any(|account| account.place.city.is_some() && account.gender.is_some()));

    // Not over what is there, unless told so; and never over what duet did not make.
    let refused = |table: &AccountsTable| load_accounts(&options, table).unwrap_err().to_string();
    let error = refused(&table);
    assert!(error.contains("not empty; give another place or --overwrite"), "{error}");
    table.overwrite = true;
    assert_eq!(load_accounts(&options, &table).unwrap(), 3_000);
    schema.sql(
        "UPDATE accounts SET email = 'ada.lovelace@example.com' WHERE user_id = (SELECT min(user_id) FROM accounts)",
    );
    let error = refused(&table);
    assert!(error.contains("were not made by duet") && !error.contains("lovelace"), "{error}");
    assert_eq!(schema.sql("SELECT count(*) FROM accounts"), ["3000"]);
    schema.sql("DROP TABLE accounts; CREATE TABLE accounts (user_id text)");
    let error = refused(&table);
    assert!(error.contains("column") && error.contains("does not exist"), "{error}");
}

#[test]
fn errors_name_the_row_and_the_column_and_never_a_value() {
    let dir = tempfile::tempdir().unwrap();
    let schema = Schema::create();
    if let Some(schema) = &schema {
        schema.sql(TABLE);
    }
    let row = |at: usize, column: usize, value: &str| {
        let mut cells: Vec<&str> = ROWS[at].split(',').collect();
        cells[column] = value;
        cells.join(",")
    };
    let twice = row(3, 0, "u-000042");
    let no_id = row(1, 0, "");
    let (north, west) = (row(1, 5, "90.91387"), row(1, 6, "-180.91387"));
    // What both sources can hold: (the bad row, its place in the file, the message).
    for (bad, at, expected) in [
        (&twice, 3, "column \"user_id\": the same id as in row"),
        (&no_id, 1, "column \"user_id\": expected a value"),
        (&north, 1, "column \"lat\": expected degrees from -90 to 90"),
        (&west, 1, "column \"lon\": expected degrees from -180 to 180"),
    ] {
        let mut rows = ROWS.to_vec();
        rows[at] = bad;
        let mut lines = vec![HEADER];
        lines.extend(&rows);
        let error = csv(dir.path(), &lines).unwrap_err();
        assert!(error.contains(expected) && error.contains(&format!("row {}", at + 2)), "{error}");
        check_silent(&error);
        if let Some(schema) = &schema {
            schema.sql("TRUNCATE accounts");
            load(schema, "accounts", &rows);
            let error = postgres(&source(schema, "accounts")).unwrap_err();
            assert!(error.contains(expected) && error.contains(&format!("row {}", at + 1)), "{error}");
            assert!(error.contains("table duet_test"), "{error}");
            check_silent(&error);
        }
    }
    // What a file only can hold.
    let texts = [
        (row(1, 3, "31.12.1990"), "row 3: column \"birth_date\": expected a date like 1990-12-31"),
        (row(1, 9, "1990-12-10 at noon"), "row 3: column \"created_at\": expected a date or an RFC 3339 time"),
        (row(1, 5, "nan"), "row 3: column \"lat\": expected degrees"),
        (format!("{},more", ROWS[1]), "row 3: 11 fields where the header has 10"),
    ];
    for (bad, expected) in &texts {
        let error = csv(dir.path(), &[HEADER, ROWS[0], bad]).unwrap_err();
        assert!(error.contains(expected), "{error}");
        check_silent(&error);
        assert!(!error.contains("31.12") && !error.contains("noon"), "{error}");
    }
    let error = csv(dir.path(), &ROWS).unwrap_err();
    assert!(error.contains("no column \"user_id\"; the first line must name the columns: user_id, age"), "{error}");
    check_silent(&error);
    let error = csv(dir.path(), &["id,age,gender", "7,30,male"]).unwrap_err();
    assert!(error.contains("no column \"user_id\"; it has: id, age, gender"), "{error}");
    assert!(csv(dir.path(), &[""]).unwrap_err().contains("the file is empty"));
    assert!(csv(dir.path(), &[HEADER]).unwrap_err().contains("no accounts below the header"));
    assert!(csv(dir.path(), &["user_id,lat", "7,30"]).unwrap_err().contains("lat and lon belong together"));
    std::fs::write(dir.path().join("latin.csv"), b"user_id,full_name\nu-000017,Bj\xf6rk Gu\xf0mundsd\xf3ttir\n")
        .unwrap();
    let error = read_with(&AccountSource::Csv(dir.path().join("latin.csv"))).unwrap_err();
    assert!(error.contains("row 2: not UTF-8") && !error.contains("rk Gu"), "{error}");
}

#[test]
fn a_wrong_table_is_described() {
    let Some(schema) = Schema::create() else { return };
    schema.sql(&format!("{TABLE} CREATE TABLE texts (user_id text, lat text, lon text, born text)"));
    let failed = |change: &dyn Fn(&mut PostgresSource)| {
        let mut source = source(&schema, "accounts");
        change(&mut source);
        postgres(&source).unwrap_err()
    };
    let error = failed(&|source| source.columns.gender = Some("sex".into()));
    assert!(error.contains("no column \"sex\"; it has: user_id, email, full_name, birth_date"), "{error}");
    let error = failed(&|source| source.table.name = "nobody".into());
    assert!(error.contains("no such table or view"), "{error}");
    let error = failed(&|source| source.columns.created_at = Some("gender".into()));
    assert!(error.contains("column \"gender\" has the type text; valid for it: date, timestamp"), "{error}");
    assert!(failed(&|_| {}).contains("the table has no rows"));
    for (value, column) in [("'infinity'", "created_at"), ("'-infinity'", "birth_date"), ("'NaN'", "lat")] {
        schema.sql(&format!("TRUNCATE accounts; INSERT INTO accounts (user_id, {column}) VALUES ('x', {value})"));
        let error = failed(&|_| {});
        assert!(error.contains("row 1") && error.contains(&format!("column \"{column}\"")), "{error}");
    }
    // The server's own message would quote the value.
    schema.sql(
        "TRUNCATE accounts; INSERT INTO accounts (user_id, email) VALUES ('x', 'ada.lovelace@example.org');
         CREATE VIEW broken AS SELECT user_id, email::date AS birth_date, gender, lat, lon, country, created_at FROM accounts",
    );
    let error = failed(&|source| source.table.name = "broken".into());
    assert!(error.contains("SQLSTATE 22007") && !error.contains("lovelace"), "{error}");
}

#[test]
fn a_role_that_may_not_see_the_rest_is_enough() {
    let Some(schema) = Schema::create() else { return };
    let role = format!("{}_reader", schema.name);
    schema.sql(&format!(
        "{TABLE} DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA {schema} TO {role};
         GRANT SELECT (user_id, birth_date, gender, lat, lon, country, created_at) ON accounts TO {role}",
        schema = schema.name
    ));
    load(&schema, "accounts", &ROWS);
    let everything = postgres(&source(&schema, "accounts")).unwrap();
    let (_, place) = schema.url.split_once('@').unwrap();
    let mut reader = source(&schema, "accounts");
    reader.connection = Connection::new(Some(&format!("postgres://{role}@{place}"))).unwrap();
    let seen = postgres(&reader);
    reader.columns.gender = Some("email".into());
    let refused = postgres(&reader);
    schema.sql(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
    assert_eq!(seen.unwrap(), everything);
    let error = refused.unwrap_err();
    assert!(error.contains("permission denied") && error.contains("42501"), "{error}");
}

#[test]
fn a_lost_connection_is_bridged_or_said() {
    let Some(schema) = Schema::create() else { return };
    // The last row comes half a second after the others: time to be cut off in the middle.
    schema.sql(&format!(
        "{TABLE}
         INSERT INTO accounts (user_id, lat, lon) SELECT 'u' || n, n % 90, n % 180 FROM generate_series(1, 30000) n;
         CREATE VIEW slow AS SELECT * FROM accounts UNION ALL
             SELECT 'last', accounts.* FROM (SELECT pg_sleep(0.5)) AS wait,
             (SELECT NULL::text, NULL::text, NULL::date, NULL::text, NULL::float8, NULL::float8, NULL::text, NULL::text,
              NULL::timestamptz) AS accounts"
    ));
    let source = source(&schema, "slow");
    let kill = |times: usize| {
        let (stop, url) = (Arc::new(AtomicBool::new(false)), schema.url.clone());
        let seen = Arc::clone(&stop);
        let name = schema.name.clone();
        let thread = std::thread::spawn(move || {
            let mut killed = Vec::new();
            while killed.len() < times && !seen.load(Ordering::Relaxed) {
                killed.extend(sql(
                    &url,
                    &format!(
                        // Chosen first: as one more condition, the killing might be checked before the others.
                        "WITH ours AS MATERIALIZED (SELECT pid FROM pg_stat_activity WHERE application_name = '{name}' \
                         AND query LIKE 'COPY%' AND state = 'active' AND now() - query_start > '0.1 s') \
                         SELECT pid FROM ours WHERE pg_terminate_backend(pid, 1000)"
                    ),
                ));
                std::thread::sleep(Duration::from_millis(20));
            }
            killed.len()
        });
        let result = postgres(&source);
        stop.store(true, Ordering::Relaxed);
        (result, thread.join().unwrap())
    };
    let (accounts, killed) = kill(2);
    assert_eq!((accounts.unwrap().len(), killed), (30_001, 2));
    let (accounts, killed) = kill(usize::MAX);
    let error = accounts.unwrap_err();
    assert!(error.contains("gave up after 3 attempts") && killed >= 3, "{killed}: {error}");

    let nobody = "postgres://me:hush-hush@127.0.0.1:1/none";
    let nobody = PostgresSource { connection: Connection::new(Some(nobody)).unwrap(), ..source };
    let error = postgres(&nobody).unwrap_err();
    assert!(error.contains("127.0.0.1:1/none") && error.contains("gave up after 3 attempts"), "{error}");
    assert!(!error.contains("hush") && !format!("{nobody:?}").contains("hush"), "{error}");
}

/// A server that gets as far as the log-in: it speaks TLS if `certified`, and then refuses everybody.
fn gatekeeper(certified: bool) -> (u16, std::thread::JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let mut request = [0; 8];
        if socket.read_exact(&mut request).is_err() {
            return;
        }
        if request == [0, 0, 0, 8, 4, 210, 22, 47] {
            socket.write_all(if certified { b"S" } else { b"N" }).unwrap();
            if certified {
                let certificates = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/certificates");
                let chain = vec![CertificateDer::from_pem_file(certificates.join("server.pem")).unwrap()];
                let key = PrivateKeyDer::from_pem_file(certificates.join("server_key.pem")).unwrap();
                let provider = Arc::new(rustls::crypto::ring::default_provider());
                let config = rustls::ServerConfig::builder_with_provider(provider)
                    .with_safe_default_protocol_versions()
                    .unwrap()
                    .with_no_client_auth()
                    .with_single_cert(chain, key)
                    .unwrap();
                let mut tls = rustls::ServerConnection::new(Arc::new(config)).unwrap();
                refuse(&mut rustls::Stream::new(&mut tls, &mut socket), true, "28000", "nobody comes in (TLS)");
                return;
            }
            refuse(&mut socket, true, "28000", "nobody comes in (plain)");
        } else {
            refuse(&mut socket, false, "28000", "nobody comes in (plain, not asked for TLS)");
        }
    });
    (port, thread)
}

fn refuse(stream: &mut (impl Read + Write), from_start: bool, code: &str, message: &str) {
    // The client may have turned away; then there is nothing to refuse.
    let mut length = [0; 4];
    if from_start && stream.read_exact(&mut length).is_err() {
        return;
    }
    let mut fields = format!("SFATAL\0VFATAL\0C{code}\0M{message}\0").into_bytes();
    fields.push(0);
    let mut answer = vec![b'E'];
    answer.extend((fields.len() as u32 + 4).to_be_bytes());
    answer.extend(fields);
    let _ = stream.write_all(&answer).and_then(|()| stream.flush());
}

#[test]
fn tls_is_used_as_asked_for() {
    let certificates = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/certificates");
    let root = format!("&sslrootcert={}", certificates.join("authority.pem").display());
    let connect = |certified: bool, host: &str, parameters: &str| {
        let (port, thread) = gatekeeper(certified);
        let url = format!("postgres://me:hush-hush@{host}:{port}/d?{parameters}");
        let mut source = PostgresSource::new(Connection::new(Some(&url)).unwrap());
        source.retry.attempts = 1;
        let error = postgres(&source).unwrap_err();
        // A client that never came would leave the server waiting.
        drop(TcpStream::connect(("127.0.0.1", port)));
        thread.join().unwrap();
        assert!(!error.contains("hush"), "{error}");
        error
    };
    for (certified, host, parameters, expected) in [
        (true, "localhost", "sslmode=disable", "(plain, not asked for TLS)"),
        (true, "localhost", "", "(TLS)"),
        (false, "localhost", "sslmode=prefer", "(plain)"),
        (true, "localhost", "sslmode=require", "(TLS)"),
        (false, "localhost", "sslmode=require", "server does not support TLS"),
        (true, "localhost", "sslmode=verify-full", "invalid peer certificate: UnknownIssuer"),
        (true, "localhost", &format!("sslmode=verify-full{root}"), "(TLS)"),
        (true, "127.0.0.1", &format!("sslmode=verify-full{root}"), "invalid peer certificate"),
        (true, "localhost", "sslmode=require&sslrootcert=/none.pem", "/none.pem"),
    ] {
        let error = connect(certified, host, parameters);
        assert!(error.contains(expected), "{certified} {host} {parameters}: {error}");
    }
}
