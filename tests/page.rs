//! The web page of `duet serve` in a real browser: Chromium, driven through chromedriver.

use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, ChildStdout, Command, Stdio},
    time::{Duration, Instant},
};

use duet_core::UserIdx;
use duet_data::dataset::Dataset;
use fantoccini::{Client, ClientBuilder, Locator, key::Key};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::{
    service::{self, Service},
    workshop::{text, workshop},
};

/// Other tests may have the processor.
const PATIENCE: Duration = Duration::from_secs(60);

/// `duet serve` on the shared bundle, with a directory of its own.
struct Site {
    /// Nothing once it is stopped.
    service: Option<Service>,
    address: SocketAddr,
    dir: TempDir,
}

impl Site {
    /// Starts it and waits until it is ready. `settings`: its configuration, but for the bundle and the address.
    fn start(settings: impl Fn(&Path) -> String) -> Self {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let (bundle, config) = (workshop().path("bundle"), dir.path().join("serve.toml"));
        fs::write(&config, settings(dir.path())).expect("a configuration");
        let service = Service::start(&["--bundle", text(&bundle), "--config", text(&config)]);
        let began = Instant::now();
        while service.client().get("/readyz").status != 200 {
            assert!(began.elapsed() < PATIENCE, "duet serve is not ready");
            std::thread::sleep(Duration::from_millis(50));
        }
        Self { address: service.address(), service: Some(service), dir }
    }

    fn address(&self) -> String {
        format!("http://{}/", self.address)
    }

    /// Every line of the journal.
    fn journal(&self) -> Vec<Value> {
        let files = fs::read_dir(self.dir.path().join("events")).expect("a journal");
        let texts = files.map(|file| fs::read_to_string(file.expect("a file").path()).unwrap_or_default());
        let lines: Vec<String> = texts.flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>()).collect();
        lines.iter().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    fn stop(&mut self) {
        drop(self.service.take());
    }
}

fn with_events(dir: &Path) -> String {
    format!("[events]\ndir = {:?}\n", text(&dir.join("events")))
}

/// chromedriver, which ends its browsers with itself when it is asked to.
struct Driver {
    process: Child,
    address: SocketAddr,
    /// Closed, it would end what still writes into it.
    _output: BufReader<ChildStdout>,
}

impl Driver {
    /// That of `CHROMEDRIVER` or of the path; nothing, and a word about it, where there is none.
    fn start() -> Option<Self> {
        let program = std::env::var("CHROMEDRIVER").unwrap_or_else(|_| "chromedriver".to_owned());
        let started = Command::new(&program).arg("--port=0").stdout(Stdio::piped()).stderr(Stdio::null()).spawn();
        let Ok(mut process) = started else {
            assert!(std::env::var("DUET_REQUIRE_SERVICES").as_deref() != Ok("1"), "no chromedriver: {program}");
            println!("skipped: no chromedriver");
            return None;
        };
        let mut output = BufReader::new(process.stdout.take().expect("its output"));
        let port = output.by_ref().lines().find_map(|line| {
            let line = line.expect("a line");
            line.split_once("successfully on port ")
                .map(|(_, port)| port.trim_end_matches('.').parse::<u16>().expect("a port"))
        });
        let address = SocketAddr::from(([127, 0, 0, 1], port.expect("chromedriver says its port")));
        Some(Self { process, address, _output: output })
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        // A signal would leave the browsers behind.
        let asked = service::Client::try_connect(self.address).and_then(|mut client| client.try_get("/shutdown"));
        if asked.is_err() {
            let _ = self.process.kill();
        }
        let _ = self.process.wait();
    }
}

/// A tab of the browser.
struct Browser {
    client: Client,
    session: String,
    driver: SocketAddr,
}

impl Browser {
    async fn open(driver: &Driver) -> Self {
        let arguments = ["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage"];
        let capabilities = json!({
            "browserName": "chrome",
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let capabilities = capabilities.as_object().expect("an object").clone();
        let mut builder = ClientBuilder::new(HttpConnector::new());
        let address = format!("http://{}", driver.address);
        let client = builder.capabilities(capabilities).connect(&address).await.expect("a browser");
        let session = client.session_id().await.expect("a session").expect("its id");
        let browser = Self { client, session, driver: driver.address };
        browser.size(1100, 900);
        browser
    }

    async fn go(&self, address: &str) {
        self.client.goto(address).await.expect("the page loads");
    }

    /// What chromedriver offers beyond the standard.
    fn extra(&self, path: &str, body: &Value) -> Value {
        let path = format!("/session/{}/{path}", self.session);
        service::Client::connect(self.driver).post(&path, body).expect(200).json()["value"].take()
    }

    fn devtools(&self, command: &str, parameters: Value) {
        self.extra("goog/cdp/execute", &json!({ "cmd": command, "params": parameters }));
    }

    fn size(&self, width: u32, height: u32) {
        let metrics = json!({ "width": width, "height": height, "deviceScaleFactor": 1, "mobile": false });
        self.devtools("Emulation.setDeviceMetricsOverride", metrics);
    }

    fn scheme(&self, scheme: &str) {
        let features = json!({ "features": [{ "name": "prefers-color-scheme", "value": scheme }] });
        self.devtools("Emulation.setEmulatedMedia", features);
    }

    /// What the console got since the last time: errors of scripts, of the policy, of loading.
    fn console(&self) -> Vec<String> {
        let entries = self.extra("se/log", &json!({ "type": "browser" }));
        entries.as_array().expect("entries").iter().map(Value::to_string).collect()
    }

    /// The value of a JavaScript expression.
    async fn value(&self, expression: &str) -> Value {
        let script = format!("return ({expression});");
        self.client.execute(&script, Vec::new()).await.unwrap_or_else(|error| panic!("{expression}: {error}"))
    }

    async fn words(&self, expression: &str) -> String {
        self.value(expression).await.as_str().unwrap_or_else(|| panic!("no text: {expression}")).to_owned()
    }

    /// A number of each element that a selector finds.
    async fn numbers(&self, selector: &str, number: &str) -> Vec<f64> {
        let numbers = self.value(&format!("[...document.querySelectorAll({selector:?})].map((one) => {number})")).await;
        serde_json::from_value(numbers).expect("numbers")
    }

    /// Waits until an expression holds.
    async fn until(&self, expression: &str) {
        let began = Instant::now();
        while self.value(expression).await != json!(true) {
            if began.elapsed() > PATIENCE {
                let page = self.words("document.body.innerText").await;
                panic!("never: {expression}\n{page}\n{:?}", self.console());
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    async fn click(&self, selector: &str) {
        let element = self.client.find(Locator::Css(selector)).await;
        let element = element.unwrap_or_else(|error| panic!("{selector}: {error}"));
        element.click().await.unwrap_or_else(|error| panic!("{selector}: {error}"));
    }

    async fn keys(&self, selector: &str, keys: &str) {
        let element = self.client.find(Locator::Css(selector)).await;
        let element = element.unwrap_or_else(|error| panic!("{selector}: {error}"));
        element.send_keys(keys).await.unwrap_or_else(|error| panic!("{selector}: {error}"));
    }

    /// Keys to whatever has the keyboard.
    async fn press(&self, keys: &str) {
        let element = self.client.active_element().await.expect("an element");
        element.send_keys(keys).await.expect("it takes keys");
    }

    /// Whether nothing is wider than the window.
    async fn fits(&self) -> bool {
        self.value("document.documentElement.scrollWidth <= window.innerWidth").await == json!(true)
    }

    async fn picture(&self, name: &str) {
        let place = Path::new(env!("CARGO_TARGET_TMPDIR")).join("page");
        fs::create_dir_all(&place).expect("a directory");
        let picture = self.client.screenshot().await.expect("a screenshot");
        fs::write(place.join(format!("{name}.png")), picture).expect("it is written");
    }

    async fn list(&self) -> Vec<String> {
        let items =
            self.value("[...document.querySelectorAll('#artists .items li')].map((row) => row.dataset.item)").await;
        items.as_array().expect("items").iter().map(|id| id.as_str().expect("an id").to_owned()).collect()
    }

    async fn log_in(&self, listener: &str) {
        self.keys("#who", listener).await;
        self.click("#log-in button.primary").await;
        self.until(LISTED).await;
    }
}

const LISTED: &str = "document.querySelectorAll('#artists .items li').length === 10";

/// Runs a test in the browser, on a runtime of its own.
fn in_browser<Test: AsyncFnOnce(&Browser)>(test: Test) {
    let Some(driver) = Driver::start() else { return };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let browser = Browser::open(&driver).await;
        test(&browser).await;
        browser.client.close().await.expect("the browser closes");
    });
}

/// A listener the bundle knows well.
fn listener() -> String {
    let dataset = Dataset::open(&workshop().path("data")).expect("a dataset");
    let (users, timeline) = (dataset.users().expect("users"), dataset.timeline().expect("a timeline"));
    let history = |row: &usize| timeline.items_of(UserIdx::from(*row)).len();
    let row = (0..users.len()).max_by_key(history).expect("a user");
    users.ids.id(row).to_owned()
}

#[test]
fn a_listener_finds_a_list_that_follows_what_is_pressed() {
    in_browser(async |browser| {
        let service = Site::start(with_events);
        let listener = listener();
        browser.go(&service.address()).await;
        assert_eq!(browser.words("document.title").await, "duet");

        // The search: the beginning of an id, the arrow keys, Enter.
        browser.keys("#who", &listener[..4]).await;
        browser.until("document.querySelectorAll('#found [role=option]').length > 0").await;
        browser.picture("search").await;
        let found = "[...document.querySelectorAll('#found li')].map((one) => one.textContent).join(' ')";
        assert!(browser.words(found).await.split(' ').all(|id| id.starts_with(&listener[..4])));
        browser.keys("#who", &Key::Escape).await;
        browser.keys("#who", &listener[4..]).await;
        // Hidden options of the search before may still be there.
        browser.until("!document.querySelector('#found').hidden").await;
        browser.until("document.querySelectorAll('#found [role=option]').length === 1").await;
        browser.keys("#who", &Key::Down).await;
        let marked =
            "document.getElementById(document.getElementById('who').getAttribute('aria-activedescendant')).textContent";
        assert_eq!(browser.words(marked).await, listener);
        browser.keys("#who", &Key::Enter).await;

        browser.until(LISTED).await;
        assert_eq!(browser.words("document.getElementById('greeting').textContent").await, format!("For {listener}"));
        let said = browser.words("document.getElementById('artists').innerText").await;
        assert!(said.contains("Made for this listener") && said.contains("because you listened to"), "{said}");
        let scores =
            browser.numbers("#artists .score > span:last-child", "Number.parseFloat(one.lastChild.textContent)").await;
        assert!(scores.len() == 10 && scores.is_sorted_by(|above, below| above >= below), "{scores:?}");
        let widths = browser.numbers("#artists .bar > span", "one.getBoundingClientRect().width").await;
        assert!(
            widths.iter().any(|width| *width > 0.0) && widths.is_sorted_by(|above, below| above >= below),
            "{widths:?}"
        );
        browser.picture("list").await;

        // By keyboard alone: the press changes the list, says so, and leaves the keyboard in it.
        let before = browser.list().await;
        let pressed = "#artists li:nth-child(3) [data-deed=click]";
        browser.value(&format!("document.querySelector({pressed:?}).focus()")).await;
        browser.press(&Key::Enter).await;
        browser.until("document.querySelector('#artists .changes').textContent.includes('The list changed')").await;
        let after = browser.list().await;
        assert_ne!(before, after);
        assert!(!after.contains(&before[2]), "what was opened is heard, and is left out");
        let fresh = after.iter().filter(|item| !before.contains(item)).count();
        let marks = browser.value("document.querySelectorAll('#artists .mark.new').length").await;
        assert_eq!(marks, json!(fresh));
        for (at, item) in after.iter().enumerate() {
            let (then, row) = (before.iter().position(|one| one == item), format!("#artists li:nth-child({})", at + 1));
            let mark = match then {
                None => "new",
                Some(then) if then > at => "up",
                Some(then) if then < at => "down",
                Some(_) => "",
            };
            assert_eq!(browser.words(&format!("document.querySelector({row:?}).className")).await, mark, "{item}");
        }
        assert_eq!(browser.value("document.activeElement.dataset.deed").await, json!("click"));
        browser.picture("changed").await;

        // What was pressed and what was in view is in the journal, with its list and place.
        browser.click("#artists li:nth-child(1) [data-deed=follow]").await;
        browser.until("document.querySelectorAll('#deeds li').length === 2").await;
        let events = service.journal();
        let of = |kind: &str| events.iter().filter(|event| event["type"] == kind).collect::<Vec<_>>();
        let clicks = of("click");
        assert_eq!(clicks.len(), 1);
        assert_eq!((&clicks[0]["item_id"], &clicks[0]["position"]), (&json!(before[2]), &json!(2)));
        assert_eq!((&clicks[0]["user_id"], &clicks[0]["item_kind"]), (&json!(listener), &json!("artist")));
        assert_eq!(of("follow").len(), 1);
        let seen = of("impression");
        let opened =
            |event: &&&Value| event["request_id"] == clicks[0]["request_id"] && event["item_id"] == json!(before[2]);
        assert!(clicks[0]["request_id"].is_string() && seen.iter().filter(opened).count() == 1, "{seen:?}");

        assert_eq!(browser.console(), Vec::<String>::new());

        // Songs are refused in the service's words; the refusal is all the console has.
        browser.value("document.getElementById('kind-artist').focus()").await;
        browser.press(&Key::Right).await;
        browser.until("document.querySelector('#songs blockquote')?.textContent.length > 0").await;
        assert_eq!(browser.words("document.activeElement.id").await, "kind-song");
        assert_eq!(browser.value("document.getElementById('artists').hidden").await, json!(true));
        let console = browser.console();
        assert!(console.iter().all(|line| line.contains("kind=song") && line.contains("400")), "{console:?}");
        browser.press(&Key::Home).await;
        assert_eq!(browser.words("document.activeElement.id").await, "kind-artist");

        // On a phone, in the dark, and somebody nobody knows.
        browser.scheme("dark");
        browser.size(360, 740);
        assert!(browser.fits().await, "the list is wider than a phone");
        browser.picture("phone-dark").await;
        browser.click("#log-out").await;
        assert!(browser.fits().await, "the log-in is wider than a phone");
        browser.log_in("nobody / knows é").await;
        let said = browser.words("document.getElementById('artists').innerText").await;
        assert!(said.contains("nothing is known yet"), "{said}");
        browser.picture("phone-unknown").await;

        // A press whose answer comes when somebody else has logged in is kept, and shows for nobody.
        let hurry = "(() => {
            document.querySelector('#artists li:nth-child(2) [data-deed=click]').click();
            document.getElementById('log-out').click();
            document.getElementById('who').value = 'the next one';
            document.getElementById('log-in').requestSubmit();
        })()";
        browser.value(hurry).await;
        let is_kept = |event: &Value| event["type"] == "click" && event["user_id"] == "nobody / knows é";
        let began = Instant::now();
        while !service.journal().iter().any(is_kept) {
            assert!(began.elapsed() < PATIENCE, "the press is lost");
            std::thread::sleep(Duration::from_millis(50));
        }
        browser.until(LISTED).await;
        // The page's turn to do wrong, if it does.
        std::thread::sleep(Duration::from_millis(300));
        assert_eq!(browser.words("document.getElementById('greeting').textContent").await, "For the next one");
        assert_eq!(browser.value("document.getElementById('visit').hidden").await, json!(true));
        assert_eq!(browser.console(), Vec::<String>::new());
    });
}

#[test]
fn an_operator_sees_figures_and_when_the_service_goes() {
    in_browser(async |browser| {
        let mut service = Site::start(with_events);
        browser.go(&service.address()).await;
        browser.log_in(&listener()).await;
        let bundle = browser.words("document.querySelectorAll('#artists .facts code')[1].textContent").await;
        browser.value("document.getElementById('view-listener').focus()").await;
        browser.press(&Key::Right).await;
        assert_eq!(browser.words("document.activeElement.id").await, "view-operator");
        assert_eq!(browser.value("document.getElementById('listener').hidden").await, json!(true));

        // Two answers make a line; clicks may have none yet.
        browser.until("document.querySelectorAll('#operator .spark path').length >= 7").await;
        let figures = "[...document.querySelectorAll('#operator .figure')].map((one) => one.textContent)";
        let figures: Vec<String> = serde_json::from_value(browser.value(figures).await).expect("figures");
        assert_eq!(figures.len(), 8);
        // All but the clicks.
        for at in [0, 1, 2, 4, 5, 6, 7] {
            assert!(figures[at].starts_with(|first: char| first.is_ascii_digit()), "{figures:?}");
        }
        let said = browser.words("document.getElementById('operator').innerText").await;
        for part in [bundle.as_str(), "control", "two-tower", "personal", "Monitor"] {
            assert!(said.contains(part), "no {part} in\n{said}");
        }
        browser.picture("operator").await;
        browser.scheme("dark");
        browser.picture("operator-dark").await;
        browser.size(360, 740);
        assert!(browser.fits().await, "the figures are wider than a phone");
        browser.picture("operator-phone-dark").await;
        assert_eq!(browser.console(), Vec::<String>::new());

        service.stop();
        browser.until("!document.querySelector('#operator .notice.bad').hidden").await;
        let said = browser.words("document.querySelector('#operator .notice.bad').innerText").await;
        assert!(said.contains("The service is gone.") && said.contains("Try again"), "{said}");
        browser.click("#view-listener").await;
        browser.click("#unseen").await;
        browser.until("!document.querySelector('#artists .notice.bad').hidden").await;
        assert_eq!(browser.list().await.len(), 10, "the old list stays");
        browser.picture("gone").await;
        // Only the requests nobody answered.
        let console = browser.console();
        assert!(!console.is_empty() && console.iter().all(|line| line.contains("net::ERR_")), "{console:?}");
    });
}

/// A file of keys with one, "sesame", which may do everything.
fn with_key(dir: &Path, more: &str) -> String {
    let (keys, scopes) = (dir.join("keys.toml"), "[\"lists\", \"events\", \"operate\"]");
    let digest = "d0c04f4b1951e4aeaaec8223ed2039e542f3aae805a6fa7f6d794e5afff5d272";
    let one = format!("[[keys]]\nname = \"page\"\nsha256 = \"{digest}\"\nscopes = {scopes}\n{more}");
    fs::write(&keys, one).expect("keys");
    format!("[keys]\nfile = {:?}\n", text(&keys))
}

#[test]
fn a_key_is_asked_for_and_switched_off_events_are_said() {
    in_browser(async |browser| {
        let service = Site::start(|dir| with_key(dir, ""));
        browser.go(&service.address()).await;
        let listener = listener();
        browser.keys("#who", &listener).await;
        browser.click("#log-in button.primary").await;
        browser.until("!document.getElementById('key-form').hidden").await;
        browser.until("!document.querySelector('#artists .notice.bad').hidden").await;
        browser.picture("key").await;
        let console = browser.console();
        assert!(!console.is_empty() && console.iter().all(|line| line.contains("401")), "{console:?}");

        browser.keys("#key", &format!("sesame{}", Key::Enter)).await;
        browser.until(LISTED).await;
        assert_eq!(browser.value("document.querySelector('#artists .notice.bad').hidden").await, json!(true));
        let kept = "JSON.stringify([localStorage.length, document.cookie, document.getElementById('key').value])";
        assert_eq!(browser.words(kept).await, "[0,\"\",\"\"]", "the key is in the session's storage alone");

        // The first impressions meet the refusal.
        let said = "document.getElementById('artists').innerText.includes('Nothing you press here is kept')";
        browser.until(said).await;
        let disabled = "[...document.querySelectorAll('#artists li button')].every((one) => one.disabled)";
        assert_eq!(browser.value(disabled).await, json!(true));
        browser.picture("no-events").await;
        let console = browser.console();
        assert!(console.iter().all(|line| line.contains("v1/events") && line.contains("404")), "{console:?}");

        browser.click("#key-forget").await;
        browser.click("#view-operator").await;
        browser.until("!document.getElementById('key-form').hidden").await;
    });
}

#[test]
fn a_press_that_is_refused_for_good_is_told_and_never_counts() {
    in_browser(async |browser| {
        let service = Site::start(with_events);
        browser.go(&service.address()).await;
        browser.log_in("somebody new").await;
        let before = browser.list().await;
        // A clock that is far ahead: the service takes no such event, however often it is sent.
        browser.value("void (window.timely = Date.prototype.toISOString)").await;
        browser.value("void (Date.prototype.toISOString = () => '2999-01-01T00:00:00.000Z')").await;
        browser.click("#artists li:nth-child(3) [data-deed=click]").await;
        browser.until("document.getElementById('artists').innerText.includes('does not count')").await;
        let notices = "[...document.querySelectorAll('#artists .notice.bad:not([hidden])')].map((one) => one.innerText).join(' ')";
        let told = browser.words(notices).await;
        assert!(told.contains("That you opened") && told.contains("between 1970 and tomorrow"), "{told}");
        assert_eq!(browser.value("document.querySelectorAll('#deeds li').length").await, json!(0));
        assert_eq!(browser.list().await, before, "a press that does not count changes no list");
        browser.picture("refused").await;

        // The next press is in time, and is the only one that counts.
        browser.value("void (Date.prototype.toISOString = window.timely)").await;
        browser.click("#artists li:nth-child(1) [data-deed=click]").await;
        browser.until("document.querySelectorAll('#deeds li').length > 0").await;
        browser.until("document.querySelector('#artists .changes').textContent.startsWith('You opened')").await;
        assert_eq!(browser.value("document.querySelectorAll('#deeds li').length").await, json!(1));
        browser.until("!document.querySelector('#artists .notice.bad:not([hidden])')").await;
        let clicks: Vec<Value> = service
            .journal()
            .into_iter()
            .filter(|event| event["type"] == "click")
            .map(|mut event| event["item_id"].take())
            .collect();
        assert_eq!(clicks, [json!(before[0])]);
        let console = browser.console();
        assert!(console.iter().all(|line| line.contains("v1/events") && line.contains("400")), "{console:?}");
    });
}

#[test]
fn what_was_too_much_is_sent_again_by_itself() {
    in_browser(async |browser| {
        // One request at once and one every four seconds: the list is the first, its impressions are one too many.
        let slow = "requests_per_second = 0.25\nburst = 1\n";
        let service = Site::start(|dir| with_events(dir) + &with_key(dir, slow));
        browser.go(&service.address()).await;
        browser.value("sessionStorage.setItem('duet.key', 'sesame')").await;
        browser.log_in("somebody new").await;
        browser.until("document.getElementById('artists').innerText.includes('Too many requests.')").await;
        browser.picture("too-many").await;
        browser.until("!document.querySelector('#artists .notice.bad:not([hidden])')").await;
        browser.until("document.querySelectorAll('#artists .items button:disabled').length === 0").await;
        let events = service.journal();
        let ids: BTreeSet<&str> = events.iter().filter_map(|event| event["event_id"].as_str()).collect();
        assert!(!events.is_empty() && ids.len() == events.len(), "{events:?}");
        assert!(events.iter().all(|event| event["type"] == "impression" && event["user_id"] == "somebody new"));
    });
}
