//! Chat templates as Python's Jinja renders them: what transformers writes for each.

use serde_json::json;

use super::super::{ChatTemplate, Ending, Message};

#[test]
fn templates_write_what_transformers_writes() {
    let messages = json!([{"content": "Hi", "role": "user"}, {"role": "assistant", "content": "Yo", "tool_calls": [{"type": "function", "function": {"name": "w", "arguments": {"z": 1, "a": null, "f": 1.5, "t": true}}}]}, {"role": "tool", "content": null}, {"role": "assistant", "content": "Bye"}]);
    let messages: Vec<Message> = serde_json::from_value(messages).expect("messages");
    let rows = [
        ("{{ messages[2].content }}|{{ none }}|{{ true }}|{{ 1.0 }}|{{ undefinedthing }}|", "None|None|True|1.0||"),
        (
            "{{ messages[1].tool_calls[0].function.arguments }}|{{ messages[1].tool_calls }}|{{ ['a', 1] }}|{{ ('a', 1) }}",
            "{'z': 1, 'a': None, 'f': 1.5, 't': True}|[{'type': 'function', 'function': {'name': 'w', 'arguments': {'z': 1, 'a': None, 'f': 1.5, 't': True}}}]|['a', 1]|('a', 1)",
        ),
        ("{{ 'x' ~ none ~ true ~ {'a': 'b'} }}|{{ messages[0] | string }}", "xNoneTrue{'a': 'b'}|{'content': 'Hi', 'role': 'user'}"),
        (
            "{{ messages[1] | tojson }}|{{ messages[0]|tojson(indent=2) }}|{{ [] | tojson(indent=4) }}|{{ 'é\"\n/<' | tojson }}",
            "{\"role\": \"assistant\", \"content\": \"Yo\", \"tool_calls\": [{\"type\": \"function\", \"function\": {\"name\": \"w\", \"arguments\": {\"z\": 1, \"a\": null, \"f\": 1.5, \"t\": true}}}]}|{\n  \"content\": \"Hi\",\n  \"role\": \"user\"\n}|[]|\"é\\\"\\n/<\"",
        ),
        ("{{ tools is none }}|{{ tools is defined }}|{{ documents }}|{{ add_generation_prompt }}", "True|True|None|False"),
        (
            "{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}{{ messages[0].get('name', 'nn') }}|{{ messages[0].keys()|list }}",
            "content=Hi;role=user;nn|['content', 'role']",
        ),
        (
            "{{ 'a b c'.split() }}|{{ ' x '.strip() }}|{{ 'abc'.startswith('a') }}|{{ 'a-b'.replace('-', '+') }}|{{ 'abc'[1:] }}|{{ 'abc'[::-1] }}|{{ 'x'.upper() }}|{{ 'a,b'.split(',')[-1] }}|{{ 'hello world'.title() }}|{{ 'abc'.find('c') }}|{{ 'x'.rstrip('x') }}|{{ 'a\nb'.splitlines() }}",
            "['a', 'b', 'c']|x|True|a+b|bc|cba|X|b|Hello World|2||['a', 'b']",
        ),
        (
            "{{ '%s=%d %5.2f %r %x' % ('k', 3, 1.5, 'q', 255) }}|{{ '{}-{}'.format(1, 'b') }}|{{ '%-5s|%05d' % ('a', 42) }}|{{ 'a%%b' % () }}|{{ '%(role)s' % messages[0] }}",
            "k=3  1.50 'q' ff|1-b|a    |00042|a%b|user",
        ),
        (
            "{% for m in messages if m.role != 'tool' %}{{ loop.index }}{{ loop.last }}{% if loop.index == 2 %}{% break %}{% endif %}{% endfor %}|{% set ns = namespace(a=1) %}{% for i in range(3) %}{% set ns.a = ns.a + i %}{% endfor %}{{ ns.a }}",
            "1False2False|4",
        ),
        (
            "{% macro f(x, y='d') %}[{{ x }}{{ y }}]{% endmacro %}{{ f('a') }}{{ f('a', y='z') }}{% set q %}cap{% endset %}{{ q }}",
            "[ad][az]cap",
        ),
        (
            "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}|{{ messages | map(attribute='role') | join(',') }}|{{ messages|rejectattr('content')|list|length }}|{{ [3,1,2]|sort }}|{{ 'x' in ['x'] }}|{{ messages[0] is mapping }}|{{ messages is sequence }}|{{ 'a' is string }}|{{ 3|int }}|{{ '7'|int + 1 }}|{{ 2.5|round }}|{{ 'AbC'|lower|capitalize }}|{{ 'x'|indent(2, true) }}",
            "1|user,assistant,tool,assistant|1|[1, 2, 3]|True|True|True|True|3|8|2.0|Abc|  x",
        ),
        (
            "{% for m in messages %}\n  {%- if m.role == 'assistant' %}\n    {%- generation -%}\n      {{ m.content }}<e>\n    {%- endgeneration %}\n  {%- else -%}\n  <{{ m.role }}>\n  {% endif %}\n{%- endfor %}\nEND",
            "<user>\nYo<e><tool>\nBye<e>END",
        ),
        (
            "{% for m in messages %}\n    {% generation %}\n    {{ m.role }}\n    {% endgeneration %}\nx{% endfor %}",
            "    user\nx    assistant\nx    tool\nx    assistant\nx",
        ),
        ("{{ '<&>' }}{{ '<&>'|e }}{{ \"it's\" }}", "<&>&lt;&amp;&gt;it's"),
        ("{% raw %}{{ x % y }}{% endraw %}{# {{ a % b }} #}{{ 5 % 3 }}{{ -5 % 3 }}{{ 5.5 % 2 }}", "{{ x % y }}211.5"),
        ("{{ strftime_now('%Y') | length }}", "4"),
        ("{{ 7 / 2 }}|{{ 7 // 2 }}|{{ 2 ** 3 }}|{{ 4 / 2 }}|{{ 10000000000 * 3 }}", "3.5|3|8|2.0|30000000000"),
        ("a\n  {% if true %}\n  b\n  {% endif %}\nc\n", "a\n  b\nc"),
        (
            "{{ messages[0]['role']|tojson }}{{ messages[1].tool_calls[0].function.arguments|items|list }}",
            "\"user\"[('z', 1), ('a', None), ('f', 1.5), ('t', True)]",
        ),
    ];
    let mut wrong = vec![];
    for (source, expected) in rows {
        let text = ChatTemplate::new(source, [].into()).and_then(|template| template.render(&messages, Ending::Complete));
        let text = text.unwrap_or_else(|error| error.to_string());
        if text != expected {
            wrong.push(format!("{source}\n  found    {text:?}\n  expected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
