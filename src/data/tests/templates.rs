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
    compare(&messages, &rows);
}

/// `n` is a list of numbers, `m` are the messages.
#[test]
fn numbers_joined_texts_and_loops_are_written_as_python_writes_them() {
    const NAMES: &str = "{% set m = messages %}{% set n = m[2].n %}";
    let numbers: serde_json::Value = serde_json::from_str(
        "[1e-05, 2e-5, 0.0001, 1e-7, 1e15, 1e16, 123456789012345680000.0, -2.5e-9, 1.5e300, 0.1, -0.0, 5e-324, 100.0, 31.245270191439438, 12345678901234567890]",
    )
    .expect("numbers");
    let messages = json!([{"content": "Hi", "role": "user"}, {"role": "assistant", "content": "Yo"}, {"role": "tool", "content": null, "n": numbers}, {"role": "assistant", "content": "Bye"}]);
    let messages: Vec<Message> = serde_json::from_value(messages).expect("messages");
    let rows = [
        (
            "{{ n }}|{{ n|tojson }}|{{ n|string }}|{{ n|join(',') }}",
            "[1e-05, 2e-05, 0.0001, 1e-07, 1000000000000000.0, 1e+16, 1.2345678901234568e+20, -2.5e-09, 1.5e+300, 0.1, -0.0, 5e-324, 100.0, 31.245270191439438, 12345678901234567890]|[1e-05, 2e-05, 0.0001, 1e-07, 1000000000000000.0, 1e+16, 1.2345678901234568e+20, -2.5e-09, 1.5e+300, 0.1, -0.0, 5e-324, 100.0, 31.245270191439438, 12345678901234567890]|[1e-05, 2e-05, 0.0001, 1e-07, 1000000000000000.0, 1e+16, 1.2345678901234568e+20, -2.5e-09, 1.5e+300, 0.1, -0.0, 5e-324, 100.0, 31.245270191439438, 12345678901234567890]|1e-05,2e-05,0.0001,1e-07,1000000000000000.0,1e+16,1.2345678901234568e+20,-2.5e-09,1.5e+300,0.1,-0.0,5e-324,100.0,31.245270191439438,12345678901234567890",
        ),
        (
            "{% for x in n %}{{ x }} {{ 'a' ~ x }} {{ x ~ x }} {{ '%s %r'|format(x, x) }} {{ '%s;%r' % (x, x) }} {{ '%s' % x }} {{ '{}'.format(x) }} {{ x|tojson }} {{ x|string }} {{ x|trim }} {{ x|upper }} {{ x|replace('e', 'E') }} {{ [x] }} {{ (x,) }} {{ {'k': x} }}\n{% endfor %}",
            "1e-05 a1e-05 1e-051e-05 1e-05 1e-05 1e-05;1e-05 1e-05 1e-05 1e-05 1e-05 1e-05 1E-05 1E-05 [1e-05] (1e-05,) {'k': 1e-05}\n2e-05 a2e-05 2e-052e-05 2e-05 2e-05 2e-05;2e-05 2e-05 2e-05 2e-05 2e-05 2e-05 2E-05 2E-05 [2e-05] (2e-05,) {'k': 2e-05}\n0.0001 a0.0001 0.00010.0001 0.0001 0.0001 0.0001;0.0001 0.0001 0.0001 0.0001 0.0001 0.0001 0.0001 0.0001 [0.0001] (0.0001,) {'k': 0.0001}\n1e-07 a1e-07 1e-071e-07 1e-07 1e-07 1e-07;1e-07 1e-07 1e-07 1e-07 1e-07 1e-07 1E-07 1E-07 [1e-07] (1e-07,) {'k': 1e-07}\n1000000000000000.0 a1000000000000000.0 1000000000000000.01000000000000000.0 1000000000000000.0 1000000000000000.0 1000000000000000.0;1000000000000000.0 1000000000000000.0 1000000000000000.0 1000000000000000.0 1000000000000000.0 1000000000000000.0 1000000000000000.0 1000000000000000.0 [1000000000000000.0] (1000000000000000.0,) {'k': 1000000000000000.0}\n1e+16 a1e+16 1e+161e+16 1e+16 1e+16 1e+16;1e+16 1e+16 1e+16 1e+16 1e+16 1e+16 1E+16 1E+16 [1e+16] (1e+16,) {'k': 1e+16}\n1.2345678901234568e+20 a1.2345678901234568e+20 1.2345678901234568e+201.2345678901234568e+20 1.2345678901234568e+20 1.2345678901234568e+20 1.2345678901234568e+20;1.2345678901234568e+20 1.2345678901234568e+20 1.2345678901234568e+20 1.2345678901234568e+20 1.2345678901234568e+20 1.2345678901234568e+20 1.2345678901234568E+20 1.2345678901234568E+20 [1.2345678901234568e+20] (1.2345678901234568e+20,) {'k': 1.2345678901234568e+20}\n-2.5e-09 a-2.5e-09 -2.5e-09-2.5e-09 -2.5e-09 -2.5e-09 -2.5e-09;-2.5e-09 -2.5e-09 -2.5e-09 -2.5e-09 -2.5e-09 -2.5e-09 -2.5E-09 -2.5E-09 [-2.5e-09] (-2.5e-09,) {'k': -2.5e-09}\n1.5e+300 a1.5e+300 1.5e+3001.5e+300 1.5e+300 1.5e+300 1.5e+300;1.5e+300 1.5e+300 1.5e+300 1.5e+300 1.5e+300 1.5e+300 1.5E+300 1.5E+300 [1.5e+300] (1.5e+300,) {'k': 1.5e+300}\n0.1 a0.1 0.10.1 0.1 0.1 0.1;0.1 0.1 0.1 0.1 0.1 0.1 0.1 0.1 [0.1] (0.1,) {'k': 0.1}\n-0.0 a-0.0 -0.0-0.0 -0.0 -0.0 -0.0;-0.0 -0.0 -0.0 -0.0 -0.0 -0.0 -0.0 -0.0 [-0.0] (-0.0,) {'k': -0.0}\n5e-324 a5e-324 5e-3245e-324 5e-324 5e-324 5e-324;5e-324 5e-324 5e-324 5e-324 5e-324 5e-324 5E-324 5E-324 [5e-324] (5e-324,) {'k': 5e-324}\n100.0 a100.0 100.0100.0 100.0 100.0 100.0;100.0 100.0 100.0 100.0 100.0 100.0 100.0 100.0 [100.0] (100.0,) {'k': 100.0}\n31.245270191439438 a31.245270191439438 31.24527019143943831.245270191439438 31.245270191439438 31.245270191439438 31.245270191439438;31.245270191439438 31.245270191439438 31.245270191439438 31.245270191439438 31.245270191439438 31.245270191439438 31.245270191439438 31.245270191439438 [31.245270191439438] (31.245270191439438,) {'k': 31.245270191439438}\n12345678901234567890 a12345678901234567890 1234567890123456789012345678901234567890 12345678901234567890 12345678901234567890 12345678901234567890;12345678901234567890 12345678901234567890 12345678901234567890 12345678901234567890 12345678901234567890 12345678901234567890 12345678901234567890 12345678901234567890 [12345678901234567890] (12345678901234567890,) {'k': 12345678901234567890}\n",
        ),
        (
            "{{ 1e16 }} {{ 0.00001 }} {{ 1e-5 * 2 }} {{ 2 ~ 1e-5 * 3 ~ 4 }} {{ -1e-5 ~ -2 }} {{- -1e-5 ~ 'x' -}} y {{ 'a' ~ 7 % 4 * 2 ~ 'b' }} {{ 'a' ~ n[0]|string|length ~ 2 ** 3 ~ 7 // 2 }}",
            "1e+16 1e-05 2e-05 23.0000000000000004e-054 -1e-05-2-1e-05xy a6b a583",
        ),
        (
            "{% for c in 'héy' %}{{ c }}{{ loop.index }}/{{ loop.length }}{{ loop.revindex }}{{ loop.last }};{% endfor %}",
            "h1/33False;é2/32False;y3/31True;",
        ),
        (
            "{% for c in 'abc'|reverse %}{{ c }}{{ loop.last }};{% endfor %}{% for k, v in m[0].items() %}{{ k }}{% if not loop.last %}, {% endif %}{% endfor %}{% for k in m[0] %}{{ k }}{{ loop.last }}{% endfor %}",
            "cFalse;bFalse;aTrue;content, rolecontentFalseroleTrue",
        ),
        (
            "{% for k in m[0].keys() %}{{ k }}{{ loop.last }}{% endfor %}{% for x in m|map(attribute='role') %}{{ x }}{{ loop.length }}{{ loop.last }}{% endfor %}{% for x in m|selectattr('role', 'equalto', 'assistant') %}{{ loop.revindex0 }}{{ loop.last }}{% endfor %}{% for x in range(3) %}{{ loop.last }}{% endfor %}{% for x in m if x.role == 'tool' %}{{ loop.length }}{{ loop.last }}{% endfor %}",
            "contentFalseroleTrueuser4Falseassistant4Falsetool4Falseassistant4True1False0TrueFalseFalseTrue1True",
        ),
        (
            "{% for g, l in m|groupby('role') %}{{ g }}{{ l|length }}{{ loop.last }}{% endfor %}{% for b in [1,2,3]|batch(2) %}{{ b }}{{ loop.last }}{% endfor %}{% for k, v in m[0]|dictsort %}{{ k }}{{ loop.last }}{% endfor %}{% for k, v in m[0]|items %}{{ k }}{{ loop.last }}{% endfor %}{% for w in 'a b'.split() %}{{ w }}{{ loop.last }}{% endfor %}",
            "assistant2Falsetool1Falseuser1True[1, 2]False[3]TruecontentFalseroleTruecontentFalseroleTrueaFalsebTrue",
        ),
        (
            "{% for x in 1, 2 %}{{ x }}{{ loop.last }}{% endfor %}|{% for x in undefinedthing %}x{% else %}none{% endfor %}|{% for x in '' %}x{% else %}none{% endfor %}",
            "1False2True|none|none",
        ),
        (
            "{% for x in [[1, [2]], 3] recursive %}{% if x is iterable %}[{{ loop(x) }}]{% else %}{{ x }}{{ loop.last }}{% endif %}{% endfor %}",
            "[1False[2True]]3True",
        ),
        ("a\r\n{% if true %}\r\nb\r\n{% endif %}\r\nc\rd\r\n{{ 'x\r\ny' }}{{ 'x\\r\\ny' }}\r\n", "a\nb\nc\nd\nx\nyx\r\ny"),
        (
            "{% for x in m %}{% if x.role=='assistant' %}{% generation %}{% set c = x.content %}{{ c }}{% endgeneration %}[{{ c }}]{% else %}{{ x.content }}{% endif %}{% endfor %}",
            "HiYo[]NoneBye[]",
        ),
        (
            "{% set c = 'o' %}{% for x in m %}{% generation %}{% set c = 'i' %}{{ c }}{{ x.role }}{{ loop.index }}{% endgeneration %}{{ c }}{% endfor %}",
            "iuser1oiassistant2oitool3oiassistant4o",
        ),
        ("{% set ns = namespace(a='o') %}{% generation %}{% set ns.a = 'i' %}{% endgeneration %}{{ ns.a }}", "i"),
        (
            "{{ '%(role)s %(x).2f' % {'role': 'r', 'x': 2.5} }}|{{ '%(a)s'|format(a=1e-5) }}|{{ '%r %s' % ('q', ['q', 1e-5]) }}|{{ '%5s|%-6s|' % (1e-5, 'a') }}|{{ '%.3s' % 'abcdef' }}|{{ '%e %g %f' % (1e-5, 1e-5, 1e-5) }}|{{ '%i%%' % 3 }}",
            "r 2.50|1e-05|'q' ['q', 1e-05]|1e-05|a     ||abc|1.000000e-05 1e-05 0.000010|3%",
        ),
        ("{{ [undefinedthing, none, true, 'it\\'s', \"q\\\"'\", '\\n', 'é'] }}", "[Undefined, None, True, \"it's\", 'q\"\\'', '\\n', 'é']"),
        (
            "{{ [1e-5, 2]|join }}|{{ [{'a': 1e-5}]|join(attribute='a') }}|{{ [1, none, 'a']|join('-') }}|{{ {'a':1,'b':2}|join(',') }}|{{ 'abc'|join('.') }}|{{ m|join(', ', attribute='role') }}",
            "1e-052|1e-05|1-None-a|a,b|a.b.c|user, assistant, tool, assistant",
        ),
        (
            "{{ 3.0|int }} {{ 7.5|round|int }} {{ 1e-5|float }} {{ '1e-5'|float }} {{ 0.1 + 0.2 }} {{ 2/3 }}",
            "3 8 1e-05 1e-05 0.30000000000000004 0.6666666666666666",
        ),
        (
            "{{ none|trim }}|{{ 5|trim }}|{{ true|lower }}|{{ ['A', 1]|lower }}|{{ undefinedthing|trim }}|{{ none|upper }}|{{ 5|replace('5', '6') }}|{{ 1.50|e }}|{{ 'x'|indent(2) }}|{{ none ~ undefinedthing ~ 1 }}",
            "None|5|true|['a', 1]||NONE|6|1.5|x|None1",
        ),
        (
            "{% macro f(x) %}{{ x ~ 1e-5 }}{% endmacro %}{{ f(1e-6) }}{% set q %}{{ 1e-7 }}{% endset %}{{ q ~ 'z' }}{% filter upper %}{{ 1e-5 }}{% endfilter %}",
            "1e-061e-051e-07z1E-05",
        ),
        (
            "{{ m[0].role ~ ':' ~ m[0]['content'] | trim ~ '\\n' }}{{ ('a' if m else 'b') ~ 'c' }}{{ 'a' ~ ('b', 'c')|length }}{% if 'a' ~ 'b' == 'ab' and not 'a' ~ 'b' != 'ab' %}Y{% endif %}{{ 'a' ~ 'b' in ['ab'] }}{{ 'x' ~ m[0].nope is defined }}",
            "user:Hi\naca2YTruexFalse",
        ),
        (
            "{{- '%s!' % m[0].role -}}{%- set x = 'a' ~ 'b' -%}{{ x }}{{ ('a' ~ 'b')|upper }}{{ ['a' ~ 1, 'b' ~ 2] }}{{ {'a': 'b' ~ 1.0} }}",
            "user!abAB['a1', 'b2']{'a': 'b1.0'}",
        ),
        (
            "{{ tools }}|{{ tools|tojson }}|{{ [1, 2][-1] ~ 'a' }}|{{ - 2 ~ 'b' }}|{{ not 'a' ~ '' }}|{{ 'a' * 3 ~ 'b' }}|{{ 1 if true else 2 ~ 3 }}",
            "None|null|2a|-2b|False|aaab|1",
        ),
    ];
    let rows: Vec<(String, &str)> = rows.into_iter().map(|(source, expected)| (NAMES.to_owned() + source, expected)).collect();
    compare(&messages, &rows);
    let absent = ChatTemplate::new("{{ nothing|tojson }}", [].into()).and_then(|template| template.render(&messages, Ending::Complete));
    assert!(absent.is_err_and(|error| error.to_string().contains("not JSON serializable")));
}

/// What templates call of Python's strings and lists, and of Jinja2's filters.
#[test]
fn methods_and_filters_give_what_python_gives() {
    let rows = [
        (
            "{{ 'a,b,c'.rsplit(',', 1) }}|{{ 'a,b,c'.rsplit(',') }}|{{ ' a b  c '.rsplit(none, 1) }}|{{ ' a b  c '.split(none, 1) }}|{{ ' a b '.rsplit() }}|{{ 'a,b,c'.split(',', maxsplit=1) }}|{{ 'a b c'.split(maxsplit=1) }}|{{ '1--2'.rsplit(sep='-', maxsplit=5) }}|{{ ''.split() }}|{{ ''.split(',') }}",
            "['a,b', 'c']|['a', 'b', 'c']|[' a b', 'c']|['a', 'b  c ']|['a', 'b']|['a', 'b,c']|['a', 'b c']|['1', '', '2']|[]|['']",
        ),
        (
            "{{ 'a,b'.partition(',') }}|{{ 'ab'.partition(',') }}|{{ 'a,b,c'.rpartition(',') }}|{{ 'ab'.rpartition(',') }}|{{ 'x</think>y</think>z'.rpartition('</think>')[2] }}",
            "('a', ',', 'b')|('ab', '', '')|('a,b', ',', 'c')|('', '', 'ab')|z",
        ),
        (
            "{{ 'pre-x'.removeprefix('pre-') }}|{{ 'x'.removeprefix('pre-') }}|{{ 'x-s'.removesuffix('-s') }}|{{ 'x'.removesuffix('') }}",
            "x|x|x|x",
        ),
        (
            "{{ 'abcb'.index('b') }}|{{ 'abcb'.rindex('b') }}|{{ 'abcb'.find('b', 2) }}|{{ 'abcb'.find('z') }}|{{ 'abcb'.find('b', -1) }}|{{ 'abcb'.rfind('b', 0, 3) }}|{{ 'äbc'.find('c') }}|{{ 'abc'.find('', 3) }}|{{ 'abc'.find('', 4) }}|{{ 'aaaa'.count('a', 1, 3) }}|{{ 'aaaa'.count('a', -2) }}|{{ 'abc'.startswith('b', 1) }}|{{ 'abc'.startswith(('x', 'a')) }}|{{ 'abc'.endswith('b', 0, 2) }}|{{ [1, 2, 1].index(1, 1) }}|{{ (3, 4).index(4) }}",
            "1|3|3|-1|3|1|2|3|-1|2|2|True|True|True|2|1",
        ),
        (
            "{{ 'ab'.zfill(5) }}|{{ '-7'.zfill(4) }}|{{ '+7'.zfill(1) }}|{{ '-+7'.zfill(5) }}|{{ 'ab'.center(5) }}|{{ 'abc'.center(6) }}|{{ 'abc'.center(6, '*') }}|{{ 'a'.ljust(3) ~ '|' }}|{{ 'a'.rjust(3, '.') }}|{{ 'abc'.ljust(2) }}",
            "000ab|-007|+7|-00+7|  ab | abc  |*abc**|a  ||..a|abc",
        ),
        (
            "{{ 'Ab ß'.swapcase() }}|{{ 'Straße ŉ ſ ΑΣς'.casefold() }}|{{ 'a\\tbc\\td'.expandtabs() }}|{{ 'a\\tbc\\n\\td'.expandtabs(4) }}|{{ 'a\\tb'.expandtabs(0) }}|{{ 'a\\tb'.expandtabs(tabsize=2) }}|{{ \"they're bill's 3a\".title() }}|{{ \"they're bill's\"|title }}",
            "aB SS|strasse ʼn s ασσ|a       bc      d|a   bc\n    d|ab|a b|They'Re Bill'S 3A|They're Bill's",
        ),
        (
            "{{ 'a\\nb\\r\\nc\\rd\\x0be'.splitlines() }}|{{ 'a\\nb\\n'.splitlines(true) }}|{{ 'a\\n'.splitlines(keepends=true) }}|{{ '12'.isdecimal() }}|{{ [1].copy() }}|{{ {'a': 1}.copy() }}",
            "['a', 'b', 'c', 'd', 'e']|['a\\n', 'b\\n']|['a\\n']|True|[1]|{'a': 1}",
        ),
        (
            "{{ '{0!r} {1!s:>4} {0}'.format('a', 2) }}|{{ '{!r}{!r}'.format('it\\'s', 1.0) }}|{{ '{x!r:6}|{x}'.format(x='q') }}|{{ '{{{0!a}}}'.format('é☃😀') }}|{{ '{!r:>5}|{}'.format('a', 'b') }}",
            "'a'    2 a|\"it's\"1.0|'q'   |q|{'\\xe9\\u2603\\U0001f600'}|  'a'|b",
        ),
        (
            "{{ 'long text here'|truncate(8) }}|{{ 'long text here'|truncate(9, true) }}|{{ 'long text here'|truncate(9, false, '..', 0) }}|{{ 'long text here'|truncate(length=20) }}|{{ 'long text here'|truncate(5, end='', leeway=0) }}|{{ 'a b_c d-e ü1'|wordcount }}|{{ 'a b'|center(5) ~ '|' }}|{{ 'abc'|center(width=6) }}",
            "long...|long text here|long..|long text here|long|5| a b || abc  ",
        ),
        (
            "{{ 'a b/c?d=é&'|urlencode }}|{{ {'a b': 'c/d', 'e': 1.0}|urlencode }}|{{ [('x', 'y z')]|urlencode }}|{{ ' <p>a &amp; <!-- c --> b</p>\\n <b>c</b>&hellip; &#65; '|striptags }}|{{ '<a>'|forceescape }}",
            "a%20b/c%3Fd%3D%C3%A9%26|a+b=c%2Fd&e=1.0|x=y+z|a & b c… A|&lt;a&gt;",
        ),
        (
            "{{ 'x' ~ ({'role': 'r'}|attr('role')) }}|{{ 'abc'|attr('nope') is defined }}|{{ (messages|last|attr('role')) is defined }}",
            "x|False|False",
        ),
        (
            "{{ {'a': 'x\u{a0}'} }}|{{ ['\u{200b}', '\u{ad}', 'é', 'e\u{301}', '\\x07', '\u{2028}', '\\x7f', '\u{e0001}', '\u{e000}', '☃', 'a\\\\b', '\\x00'] }}|{{ '%r' % '\u{a0}\"' }}",
            "{'a': 'x\\xa0'}|['\\u200b', '\\xad', 'é', 'e\u{301}', '\\x07', '\\u2028', '\\x7f', '\\U000e0001', '\\ue000', '☃', 'a\\\\b', '\\x00']|'\\xa0\"'",
        ),
        (
            "{{ 'the quick-brown fox jumps over well-known dogs'|wordwrap(12) }}|{{ 'aaaaaaaaaaaaaaaaaa bb'|wordwrap(5) }}|{{ 'aaaaaaaaaaaaaaaaaa bb'|wordwrap(5, false) }}|{{ 'ab-cdefgh ij--Kl mn'|wordwrap(6) }}|{{ 'a  b   c d'|wordwrap(4, wrapstring='|') }}|{{ 'one two\\nthree four five\\n\\nsix'|wordwrap(9) }}|{{ 'quick-brown'|wordwrap(8, break_on_hyphens=false) }}|{{ 'abc     def gh'|wordwrap(5) }}|{{ '  lead x'|wordwrap(4) }}",
            "the quick-\nbrown fox\njumps over\nwell-known\ndogs|aaaaa\naaaaa\naaaaa\naaa\nbb|aaaaaaaaaaaaaaaaaa\nbb|ab-\ncdefgh\nij--Kl\nmn|a  b|c d|one two\nthree\nfour five\n\nsix|quick-br\nown|abc\ndef\ngh|lead\nx",
        ),
    ];
    compare(&[Message::says("user", "x")], &rows);
}

fn compare<S: AsRef<str>>(messages: &[Message], rows: &[(S, &str)]) {
    let mut wrong = vec![];
    for (source, expected) in rows {
        let source = source.as_ref();
        let text = ChatTemplate::new(source, [].into()).and_then(|template| template.render(messages, Ending::Complete));
        let text = text.unwrap_or_else(|error| error.to_string());
        if text != *expected {
            wrong.push(format!("{source}\n  found    {text:?}\n  expected {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "\n{}", wrong.join("\n"));
}
