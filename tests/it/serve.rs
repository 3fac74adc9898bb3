//! `serve`: requests over loopback, answered as `generate` and `predict` answer.

use std::io::{BufRead, BufReader, Read, Write as _};
use std::process::{Child, Stdio};

use serde_json::{Value, json};

use crate::common::{Folder, done, json_of, number, peft_onnx, refused};
use crate::tasks::tokenizer;

/// A running server, ended with the test.
pub(crate) struct Server {
    child: Child,
    address: String,
}

impl Server {
    pub(crate) fn of(args: &[&str]) -> Self {
        let command = peft_onnx();
        let mut plain = std::process::Command::new(command.get_program());
        plain.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        let args = [&["serve"], args, &["--port", "0", "--threads", "1", "--json"]].concat();
        let mut child = plain.args(&args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines().map_while(Result::ok);
        let mut text = String::new();
        for line in lines {
            text += &line;
            if line == "}" {
                break;
            }
        }
        let told: Value = serde_json::from_str(&text).unwrap_or_else(|_| {
            let mut said = String::new();
            let _ = child.stderr.take().expect("a pipe").read_to_string(&mut said);
            panic!("the server does not start: {said}")
        });
        Self { child, address: told["address"].as_str().expect("an address").to_owned() }
    }

    /// Sends a request with headers; its status and body.
    fn send(&self, path: &str, body: Option<&str>, headers: &[(&str, &str)]) -> (u16, String) {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).proxy(None).build().into();
        let url = format!("{}{path}", self.address);
        let answer = match body {
            None => headers.iter().fold(agent.get(&url), |request, (name, value)| request.header(*name, *value)).call(),
            Some(body) => headers.iter().fold(agent.post(&url), |request, (name, value)| request.header(*name, *value)).send(body),
        };
        let mut answer = answer.expect("the server answers");
        (answer.status().as_u16(), answer.body_mut().read_to_string().expect("a text"))
    }

    pub(crate) fn ask(&self, path: &str, body: &Value) -> (u16, Value) {
        let (status, text) = self.send(path, Some(&body.to_string()), &[("content-type", "application/json")]);
        (status, serde_json::from_str(&text).unwrap_or_else(|_| panic!("no JSON: {text}")))
    }

    /// The answer to a request that must go well.
    pub(crate) fn answer(&self, path: &str, body: &Value) -> Value {
        let (status, answer) = self.ask(path, body);
        assert_eq!(status, 200, "{body}: {answer}");
        answer
    }

    /// The events of a streamed answer.
    fn events(&self, path: &str, body: &Value) -> Vec<Value> {
        let (status, text) = self.send(path, Some(&body.to_string()), &[("content-type", "application/json")]);
        assert_eq!(status, 200, "{text}");
        let mut events: Vec<&str> = text.lines().filter_map(|line| line.strip_prefix("data: ")).collect();
        assert_eq!(events.pop(), Some("[DONE]"), "{text}");
        events.iter().map(|event| serde_json::from_str(event).expect("an event is JSON")).collect()
    }

    /// Ends the server; what it said on its standard error.
    pub(crate) fn said(mut self) -> String {
        let _ = self.child.kill();
        let mut said = String::new();
        let _ = self.child.stderr.take().map(|mut pipe| pipe.read_to_string(&mut said));
        said
    }

    /// Asks the server to end; its exit code.
    #[cfg(unix)]
    fn end(mut self) -> Option<i32> {
        let id = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(id, rustix::process::Signal::TERM).expect("it runs");
        self.child.wait().expect("it ends").code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(crate) const CHAT: &str = "/v1/chat/completions";
/// A language model with a cache.
const CACHED: &str = "llama/optimum_cache.onnx";
pub(crate) const TEXT: &str = "/v1/completions";

/// A folder with a small language model, its tokenizer and a chat template.
pub(crate) fn writer(model: &str) -> Folder {
    let folder = Folder::with(model);
    // A word for every token of the model.
    let mut words: Value = serde_json::from_str(&tokenizer()).expect("JSON");
    for number in 40..59 {
        words["model"]["vocab"][format!("w{number}")] = json!(number + 5);
    }
    folder.write("tokenizer.json", &words.to_string());
    let template = "{% for message in messages %}{{ message.role }} {{ message.content }} {% endfor %}w3";
    folder.write("tokenizer_config.json", &json!({"chat_template": template}).to_string());
    folder
}

/// A bundle of the folder's model.
pub(crate) fn injected(folder: &Folder, name: &str, options: &[&str]) -> String {
    let (model, bundle) = (folder.path("model.onnx"), folder.path(name));
    let more = ["--method", "lora", "--init-lora-weights", "random", "-o", &bundle, "-q"];
    done(&[&["inject", &model][..], &more, options].concat());
    bundle
}

/// What `generate` writes behind a prompt.
pub(crate) fn generated(model: &str, folder: &Folder, prompt: &str, more: &[&str]) -> String {
    let tokenizer = folder.path("tokenizer.json");
    let args = ["generate", model, "--tokenizer", &tokenizer, "--prompt", prompt, "--max-new-tokens", "8", "--threads", "1"];
    json_of(&[&args[..], more].concat())[0]["completion"].as_str().expect("a text").to_owned()
}

pub(crate) fn greedy(model: &str, prompt: &str) -> Value {
    json!({"model": model, "prompt": prompt, "temperature": 0, "max_tokens": 8})
}

#[test]
fn texts_are_those_of_generate_whole_and_as_events() {
    let folder = writer(CACHED);
    let model = folder.path("model.onnx");
    let server = Server::of(&[&model, "--name", "base"]);
    let expected = generated(&model, &folder, "w1 w2", &[]);
    let whole = server.answer(TEXT, &greedy("base", "w1 w2"));
    assert_eq!(whole["choices"][0]["text"], json!(expected));
    assert_eq!(whole["choices"][0]["finish_reason"], json!("length"));
    assert_eq!(whole["usage"], json!({"prompt_tokens": 4, "completion_tokens": 8, "total_tokens": 12}));
    assert_eq!((&whole["object"], &whole["model"]), (&json!("text_completion"), &json!("base")));

    let mut streamed = greedy("base", "w1 w2");
    streamed["stream"] = true.into();
    streamed["stream_options"] = json!({"include_usage": true});
    let events = server.events(TEXT, &streamed);
    let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
    assert_eq!(text, expected);
    assert!(events.len() > 8, "{events:?}");
    assert_eq!(events[events.len() - 2]["choices"][0]["finish_reason"], json!("length"));
    assert_eq!(events.last().expect("the last")["usage"], whole["usage"]);

    // A conversation is the template's text.
    let said = json!([{"role": "user", "content": [{"type": "text", "text": "w1"}]}]);
    let chat = json!({"model": "base", "messages": said, "temperature": 0, "max_completion_tokens": 4});
    let whole = server.answer(CHAT, &chat);
    let message = &whole["choices"][0]["message"];
    assert_eq!((&message["role"], &whole["object"]), (&json!("assistant"), &json!("chat.completion")));
    let mut streamed = chat.clone();
    streamed["stream"] = true.into();
    let events = server.events(CHAT, &streamed);
    assert_eq!(events[0]["choices"][0]["delta"]["role"], json!("assistant"));
    let text: String = events.iter().filter_map(|event| event["choices"][0]["delta"]["content"].as_str()).collect();
    assert_eq!(json!(text), message["content"]);

    // Several prompts, and tokens, are what each is alone.
    let several = server.answer(TEXT, &json!({"model": "base", "prompt": ["w1 w2", "w4"], "temperature": 0, "max_tokens": 8}));
    assert_eq!(several["choices"][0]["text"], json!(expected));
    assert_eq!(several["choices"][1]["text"], json!(generated(&model, &folder, "w4", &[])));
    assert_eq!(several["usage"]["completion_tokens"], json!(16));
}

#[test]
fn choices_of_tokens_and_ends_are_honoured() {
    let folder = writer(CACHED);
    let model = folder.path("model.onnx");
    let server = Server::of(&[&model, "--name", "base", "--max-tokens", "32"]);
    let drawn = |seed: Option<u64>| {
        let asked = json!({"model": "base", "prompt": "w1 w2", "max_tokens": 16, "seed": seed, "temperature": 1.5, "top_p": 0.95});
        server.answer(TEXT, &asked)["choices"][0]["text"].as_str().expect("a text").to_owned()
    };
    assert_eq!(drawn(Some(7)), drawn(Some(7)));
    assert_ne!(drawn(Some(7)), drawn(Some(8)));
    assert_ne!(drawn(None), drawn(None), "without a seed each text is another");
    let options = ["--temperature", "1.5", "--top-p", "0.95", "--seed", "7"];
    assert!(drawn(Some(7)).starts_with(&generated(&model, &folder, "w1 w2", &options)));

    let words = server.answer(TEXT, &greedy("base", "w1 w2"))["choices"][0]["text"].as_str().expect("a text").to_owned();
    let end = words.split_whitespace().nth(3).expect("a fourth word").to_owned();
    let before = &words[..words.find(&end).expect("it is there")];
    for stop in [json!(end), json!(["never", end])] {
        let mut asked = greedy("base", "w1 w2");
        asked["stop"] = stop;
        let stopped = server.answer(TEXT, &asked);
        assert_eq!((&stopped["choices"][0]["text"], &stopped["choices"][0]["finish_reason"]), (&json!(before), &json!("stop")));
        asked["stream"] = true.into();
        let events = server.events(TEXT, &asked);
        let text: String = events.iter().filter_map(|event| event["choices"][0]["text"].as_str()).collect();
        assert_eq!(text, before);
    }
}

#[test]
fn what_is_not_honoured_is_refused_in_openais_form() {
    let folder = writer(CACHED);
    let model = folder.path("model.onnx");
    let server = Server::of(&[&model, "--name", "base", "--max-tokens", "32", "--max-body", "4"]);
    let with = |name: &str, value: Value| {
        let mut asked = greedy("base", "w1");
        asked[name] = value;
        asked
    };
    let said = |messages: Value| json!({"model": "base", "messages": messages});
    for (path, body, status, param) in [
        (TEXT, with("n", json!(2)), 400, "n"),
        (TEXT, with("logprobs", json!(1)), 400, "logprobs"),
        (TEXT, with("echo", json!(true)), 400, "echo"),
        (TEXT, with("temprature", json!(1)), 400, "temprature"),
        (TEXT, with("temperature", json!(-1)), 400, "temperature"),
        (TEXT, with("top_p", json!(0)), 400, "top_p"),
        (TEXT, with("max_tokens", json!(33)), 400, "max_tokens"),
        (TEXT, with("max_tokens", json!(0)), 400, "max_tokens"),
        (TEXT, with("stop", json!(["a", "b", "c", "d", "e"])), 400, "stop"),
        (TEXT, with("stop", json!("")), 400, "stop"),
        (TEXT, with("seed", json!(1.5)), 400, "seed"),
        (TEXT, with("stream_options", json!({"include_usage": true})), 400, "stream_options"),
        (TEXT, with("model", json!("other")), 404, "model"),
        (TEXT, with("model", json!("../base")), 404, "model"),
        (TEXT, with("prompt", json!([1, 100_000])), 400, "prompt"),
        (TEXT, with("prompt", json!([])), 400, "prompt"),
        (TEXT, json!({"prompt": "w1"}), 400, "model"),
        (CHAT, said(json!([])), 400, "messages"),
        (CHAT, said(json!([{"role": "user"}])), 400, "messages"),
        (CHAT, said(json!([{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "x"}}]}])), 400, "messages"),
        (CHAT, json!({"model": "base", "messages": [{"role": "user", "content": "w1"}], "tools": [{"type": "function"}]}), 400, "tools"),
        (
            CHAT,
            json!({"model": "base", "messages": [{"role": "user", "content": "w1"}], "response_format": {"type": "json_object"}}),
            400,
            "response_format",
        ),
    ] {
        let (found, answer) = server.ask(path, &body);
        assert_eq!((found, &answer["error"]["param"]), (status, &json!(param)), "{body}: {answer}");
        assert!(answer["error"]["message"].as_str().is_some_and(|message| !message.is_empty()) && answer["error"]["type"].is_string());
    }
    let json = [("content-type", "application/json")];
    let large = format!("{{\"prompt\": \"{}\"}}", "w1 ".repeat(2000));
    for (path, body, headers, status) in [
        (TEXT, Some("{"), &json[..], 400),
        (TEXT, Some("{}"), &[("content-type", "text/plain")], 415),
        (TEXT, Some(large.as_str()), &json, 413),
        (TEXT, None, &[], 405),
        ("/v1/nothing", None, &[], 404),
        ("/v1/embeddings", Some("{\"model\": \"base\", \"input\": \"w1\"}"), &json, 400),
        ("/v1/models", None, &[("host", "elsewhere.example")], 403),
        ("/v1/models", None, &[("host", "localhost:80")], 200),
    ] {
        let (found, text) = server.send(path, body, headers);
        assert_eq!(found, status, "{path} {body:?}: {text}");
        assert!(status == 200 || serde_json::from_str::<Value>(&text).is_ok_and(|answer| answer["error"]["message"].is_string()), "{text}");
    }
}

/// Each is held in memory as far as it came.
#[test]
fn bodies_that_do_not_end_have_room_for_a_few_alone() {
    let folder = writer(CACHED);
    let server = Server::of(&[&folder.path("model.onnx"), "--name", "base", "--max-body", "8"]);
    let place = server.address.strip_prefix("http://").expect("an address").to_owned();
    let unfinished = |length: &str, begun: &str| {
        let mut sender = std::net::TcpStream::connect(&place).expect("the server listens");
        write!(sender, "POST {TEXT} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n{length}\r\n\r\n{begun}")
            .expect("it is sent");
        sender
    };
    let body = json!({"model": "base", "prompt": "w1 w2", "max_tokens": 1});
    let answers = |wanted: u16| {
        std::thread::sleep(std::time::Duration::from_millis(20));
        server.ask(TEXT, &body).0 == wanted
    };
    for (length, begun) in [("content-length: 8192", "{"), ("transfer-encoding: chunked", "1\r\n{\r\n")] {
        let mut senders: Vec<_> = (0..20).map(|_| unfinished(length, begun)).collect();
        // Those before may still have some room.
        let is_full = (0..100).any(|_| {
            senders.push(unfinished(length, begun));
            answers(429)
        });
        assert!(is_full, "{length}: all room is taken");
        assert_eq!(server.send("/v1/models", None, &[]).0, 200, "what sends nothing needs no room");
        drop(senders);
        assert!((0..100).any(|_| answers(200)), "{length}: those who go give their room back");
    }
}

/// The same as under `generate`, before the whole prompt is taken apart.
#[test]
fn a_prompt_that_is_far_too_long_is_refused() {
    let folder = writer(CACHED);
    folder.write("config.json", &json!({"max_position_embeddings": 64}).to_string());
    let server = Server::of(&[&folder.path("model.onnx"), "--name", "base"]);
    for prompt in ["w1 ".repeat(64), "w1 ".repeat(400_000)] {
        let (status, answer) = server.ask(TEXT, &json!({"model": "base", "prompt": prompt, "max_tokens": 1}));
        assert!(status == 400 && answer.to_string().contains("fewer than 64"), "{} bytes: {answer}", prompt.len());
        let message = json!({"model": "base", "messages": [{"role": "user", "content": prompt}]});
        let (status, answer) = server.ask(CHAT, &message);
        assert!(status == 400 && answer.to_string().contains("fewer than 64"), "{} bytes: {answer}", prompt.len());
    }
}

#[test]
fn a_key_is_asked_for_and_models_are_listed() {
    let folder = writer(CACHED);
    let server = Server::of(&[&folder.path("model.onnx"), "--name", "base", "--api-key", "secret"]);
    for (headers, status) in [
        (&[][..], 401),
        (&[("authorization", "Bearer other")], 401),
        (&[("authorization", "secret")], 401),
        (&[("authorization", "Bearer secret")], 200),
    ] {
        assert_eq!(server.send("/v1/models", None, headers).0, status, "{headers:?}");
    }
    let (_, listed) = server.send("/v1/models", None, &[("authorization", "Bearer secret")]);
    let listed: Value = serde_json::from_str(&listed).expect("JSON");
    assert_eq!((&listed["object"], &listed["data"][0]["id"]), (&json!("list"), &json!("base")));
    assert_eq!(server.send("/health", None, &[]).0, 200);
}

/// Copies an adapter's two files into a folder of adapters.
pub(crate) fn put(folder: &Folder, bundle: &str, name: &str) {
    let target = folder.path(&format!("adapters/{name}"));
    std::fs::create_dir_all(&target).expect("a folder");
    for file in ["adapter_config.json", "adapter_model.safetensors"] {
        std::fs::copy(format!("{bundle}/{file}"), format!("{target}/{file}")).expect("the file is there");
    }
}

#[test]
fn adapters_of_a_folder_come_change_and_go() {
    let folder = writer(CACHED);
    let model = folder.path("model.onnx");
    let bundles = [
        ("a", &["--rank", "4", "--seed", "1", "--alpha", "64"][..]),
        ("b", &["--rank", "4", "--seed", "2", "--alpha", "96"]),
        ("c", &["--rank", "2", "--seed", "3", "--alpha", "64"]),
        ("d", &["--rank", "4", "--seed", "4", "--alpha", "64"]),
    ]
    .map(|(name, options)| injected(&folder, name, options));
    let expected = bundles.each_ref().map(|bundle| generated(bundle, &folder, "w1 w2", &[]));
    let plain = generated(&model, &folder, "w1 w2", &[]);
    let text = |server: &Server, model: &str| server.answer(TEXT, &greedy(model, "w1 w2"))["choices"][0]["text"].clone();
    // A plain model and a bundle take the same adapters.
    for (served, name, own) in [(&model, "plain", &plain), (&bundles[0], "own", &expected[0])] {
        std::fs::create_dir_all(folder.path("adapters")).expect("a folder");
        put(&folder, &bundles[1], "b");
        let server = Server::of(&[served, "--name", name, "--adapters", &folder.path("adapters")]);
        assert_eq!(text(&server, "b"), json!(expected[1]));
        assert_eq!(text(&server, name), json!(own));
        assert_eq!(server.ask(TEXT, &greedy("c", "w1")).0, 404);
        // It comes, with another rank; it changes; it goes.
        put(&folder, &bundles[2], "c");
        assert_eq!(text(&server, "c"), json!(expected[2]));
        put(&folder, &bundles[3], "b");
        assert_eq!(text(&server, "b"), json!(expected[3]));
        assert_eq!(text(&server, "c"), json!(expected[2]));
        let (_, listed) = server.send("/v1/models", None, &[]);
        let listed: Value = serde_json::from_str(&listed).expect("JSON");
        let names: Vec<&str> = listed["data"].as_array().expect("a list").iter().filter_map(|model| model["id"].as_str()).collect();
        assert_eq!(names, [name, "b", "c"]);
        std::fs::remove_dir_all(folder.path("adapters")).expect("it is there");
        assert_eq!(server.ask(TEXT, &greedy("c", "w1")).0, 404);
        assert_eq!(text(&server, name), json!(own));
    }
    // What is no adapter of this model is refused, and the server goes on.
    put(&folder, &bundles[1], "broken");
    std::fs::write(folder.path("adapters/broken/adapter_model.safetensors"), b"noise").expect("a file");
    let server = Server::of(&[&model, "--name", "plain", "--adapters", &folder.path("adapters")]);
    let (status, answer) = server.ask(TEXT, &greedy("broken", "w1"));
    assert!(status == 400 && answer["error"]["message"].as_str().is_some_and(|words| words.contains("broken")), "{answer}");
    assert_eq!(text(&server, "plain"), json!(plain));
}

/// What `predict` says of texts.
pub(crate) fn predicted(folder: &Folder, model: &str, texts: &[&str]) -> Vec<Value> {
    let rows: String = texts.iter().map(|text| json!({"text": text}).to_string() + "\n").collect();
    let (data, tokenizer) = (folder.write("asked.jsonl", &rows), folder.path("tokenizer.json"));
    let told = done(&["predict", model, "--data", &data, "--tokenizer", &tokenizer, "--threads", "1"]);
    told.lines().map(|line| serde_json::from_str(line).expect("a row of JSON")).collect()
}

pub(crate) fn near(one: &Value, other: &Value) -> bool {
    let (one, other) = (one.as_array().expect("a list"), other.as_array().expect("a list"));
    one.len() == other.len() && one.iter().zip(other).all(|(one, other)| (number(one) - number(other)).abs() < 1e-5)
}

#[test]
fn vectors_and_classes_are_those_of_predict_for_every_adapter() {
    let folder = Folder::with("bert_encoder/dynamo.onnx");
    folder.write("tokenizer.json", &tokenizer());
    let texts = ["w1 w2", "w3", "w4 w5 w6"];
    let [one, other] = ["1", "2"].map(|seed| injected(&folder, seed, &["--task", "embedding", "--seed", seed, "--alpha", "64"]));
    put(&folder, &other, "other");
    let server =
        Server::of(&[&one, "--name", "one", "--adapters", &folder.path("adapters"), "--tokenizer", &folder.path("tokenizer.json")]);
    for (name, bundle) in [("one", &one), ("other", &other), ("one", &one)] {
        let answer = server.answer("/v1/embeddings", &json!({"model": name, "input": texts}));
        for (at, row) in predicted(&folder, bundle, &texts).iter().enumerate() {
            assert!(near(&answer["data"][at]["embedding"], &row["vector"]), "{name} {at}");
        }
        assert!(number(&answer["usage"]["prompt_tokens"]) >= 6.0, "{answer}");
        let packed = server.answer("/v1/embeddings", &json!({"model": name, "input": texts[1], "encoding_format": "base64"}));
        let packed = packed["data"][0]["embedding"].as_str().expect("a text").len();
        let width = answer["data"][0]["embedding"].as_array().expect("a list").len();
        assert_eq!(packed, (width * 4).div_ceil(3) * 4);
    }
    assert_eq!(server.ask("/v1/embeddings", &json!({"model": "one", "input": ""})).0, 400);
    assert_eq!(server.ask("/v1/embeddings", &json!({"model": "one", "input": "w1", "dimensions": 2})).0, 400);
    drop(server);

    std::fs::remove_dir_all(folder.path("adapters")).expect("it is there");
    let classes = ["--task", "seq-cls", "--num-labels", "3", "--alpha", "64"];
    let [one, other] = ["3", "4"].map(|seed| injected(&folder, seed, &[&classes[..], &["--seed", seed]].concat()));
    put(&folder, &other, "other");
    let server =
        Server::of(&[&one, "--name", "one", "--adapters", &folder.path("adapters"), "--tokenizer", &folder.path("tokenizer.json")]);
    for (name, bundle) in [("one", &one), ("other", &other), ("one", &one)] {
        let answer = server.answer("/classify", &json!({"model": name, "input": texts}));
        for (at, row) in predicted(&folder, bundle, &texts).iter().enumerate() {
            assert_eq!(answer["data"][at]["label"], row["prediction"], "{name} {at}");
            assert!((number(&answer["data"][at]["probability"]) - number(&row["probability"])).abs() < 1e-5);
            let sum: f64 = answer["data"][at]["probs"].as_array().expect("a list").iter().map(number).sum();
            assert!((sum - 1.0).abs() < 1e-5 && answer["data"][at]["num_classes"] == json!(3), "{answer}");
        }
    }
    let pair = server.answer("/classify", &json!({"model": "one", "input": {"text": "w1", "text_pair": "w2"}}));
    assert_eq!(pair["data"].as_array().map(Vec::len), Some(1));
    assert_eq!(server.ask("/classify", &json!({"model": "one", "input": {"txt": "w1"}})).0, 400);
    assert_eq!(server.ask(TEXT, &greedy("one", "w1")).0, 400);
}

#[test]
#[cfg(unix)]
fn a_signal_lets_what_has_begun_end() {
    let folder = writer(CACHED);
    let server = Server::of(&[&folder.path("model.onnx"), "--name", "base"]);
    let address = server.address.clone();
    let asked = json!({"model": "base", "prompt": "w1 w2", "temperature": 0, "max_tokens": 24, "stream": true}).to_string();
    let agent: ureq::Agent = ureq::Agent::config_builder().proxy(None).build().into();
    let answer = agent.post(format!("{address}{TEXT}")).header("content-type", "application/json").send(&asked);
    let body = answer.expect("the server answers").into_body();
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        body.into_reader().read_to_string(&mut text).map(|_| text)
    });
    assert_eq!(server.end(), Some(0));
    let text = reader.join().expect("no panic").expect("the answer is whole");
    assert!(text.trim_end().ends_with("data: [DONE]"), "{text}");
}

#[test]
fn what_cannot_be_served_is_refused_before_anything_listens() {
    let folder = writer(CACHED);
    let model = folder.path("model.onnx");
    refused(&["serve", &model, "--adapters", &folder.path("none"), "--port", "0"], &["no folder of adapters"]);
    let bundle = injected(&folder, "same", &[]);
    put(&folder, &bundle, "base");
    refused(
        &["serve", &model, "--name", "base", "--adapters", &folder.path("adapters"), "--port", "0"],
        &["the name of the model itself", "--name"],
    );
    let seq2seq = Folder::with("t5/dynamo.onnx");
    seq2seq.write("tokenizer.json", &tokenizer());
    refused(&["serve", &seq2seq.path("model.onnx"), "--port", "0"], &["serving seq2seq-lm", "hint: "]);
}
