"""IFEval: what follows each of the 25 instructions, and the four numbers."""

from __future__ import annotations

import json
import pickle
import random
import time

import pytest

from themis import evaluate
from themis.benchmarks import load_benchmark
from themis.errors import DataError, UsageError
from themis.records import GenerationRecord, Sample
from themis.scoring import evaluate_generation, load_metric
from themis.scoring.ifeval import IFEVAL_METRICS, instruction_targets
from themis.scoring.instructions import CHECKS, checked, follows, loosened
from themis.scoring.language import count_capital_words, count_sentences, count_words, detect_language

AT_LEAST, LESS_THAN = "at least", "less than"

CASES = [
    # instruction, its arguments, what follows it, what does not
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 2, "capital_relation": AT_LEAST},
        ["NASA met the UN.", "I AM here", "I DON'T know"],  # a clitic is a word of its own
        ["NASA alone", "Nasa And Un", "X-RAY"],  # a hyphen divides nothing
    ),
    (
        "change_case:capital_word_frequency",
        {"capital_frequency": 1, "capital_relation": LESS_THAN},
        ["none at all", "12:30 and 5%"],
        ["I am", "all ONE"],
    ),
    (
        "change_case:english_capital",
        {},
        ["THE WEATHER WAS FINE TODAY AND WE WENT OUT INTO THE GARDEN WITH OUR FRIENDS."],
        [
            "The weather was fine.",
            "DAS WETTER WAR HEUTE SEHR SCHÖN UND WIR SIND MIT DEN KINDERN IN DEN GARTEN GEGANGEN.",
        ],
    ),
    (
        "change_case:english_lowercase",
        {},
        ["the weather was fine today, and we went out into the garden."],
        ["The weather was fine today.", "das wetter war heute schön, und wir gingen in den garten."],
    ),
    (
        "combination:repeat_prompt",
        {"prompt_to_repeat": "Write a poem. "},
        ["Write a poem.\nRoses are red", "  WRITE A POEM. Yes"],
        ["Sure. Write a poem.", "Write one poem."],
    ),
    (
        "combination:two_responses",
        {},
        ["one\n******\ntwo", "******one******two******"],
        ["one", "one\n******\none", "one******two******three", "one************two", "one***two"],
    ),
    (
        "detectable_content:number_placeholders",
        {"num_placeholders": 2},
        ["Dear [name], at [address]", "[[a] and []"],
        ["Dear [name]", "[over\ntwo lines] [one]", "]] [["],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.S."},
        ["Bye.\nP.S. More", "p. s. more", "amp.s. also counts"],
        ["Bye.", "PS: more", "P.S more"],
    ),
    (
        "detectable_content:postscript",
        {"postscript_marker": "P.P.S"},
        ["P.P.S more", "p. p. s. more", "P.P.S. more"],
        ["P.S. more", "PPS more"],
    ),
    ("detectable_content:postscript", {"postscript_marker": "N.B."}, ["n.b. this"], ["nxbx this"]),
    (
        "detectable_format:constrained_response",
        {},
        ["My answer is yes.", "Well. My answer is maybe. So be it."],
        ["my answer is yes.", "My answer is yes", "Yes."],
    ),
    (
        "detectable_format:json_format",
        {},
        ['{"a": 1}', '```json\n{"a": [1, 2]}\n```', "```\n[]\n```", "3", " ```JSON\nnull``` "],
        ["{'a': 1}", 'Here: {"a": 1}', "``` json\n{}\n```", "```\n```", "[" * 100_000],
    ),
    (
        "detectable_format:multiple_sections",
        {"section_spliter": "SECTION", "num_sections": 2},
        ["SECTION 1\na\nSECTION 2\nb", "SECTION1 SECTION 22", "SECTION 1 SECTION 2 SECTION 3"],
        ["SECTION 1\na", "Section 1\na\nSection 2\nb", "SECTION one SECTION two"],
    ),
    (
        "detectable_format:number_bullet_lists",
        {"num_bullets": 2},
        ["* a\n* b", "- a\n\n   * b", "text\n-a\n*b", "* a\n** not a bullet\n- b", "* a\n\n\n\n* b"],
        ["* a", "* a\n* b\n* c", "a * b * c", "1. a\n2. b", "*\n* swallowed by the star above"],
    ),
    (
        "detectable_format:number_highlighted_sections",
        {"num_highlights": 2},
        ["*one* and *two*", "***bold and italic***", "*a* *b* *c*"],
        ["*one*", "**bold**", "*over\nlines* *one*", "* * ** **", "****"],
    ),
    (
        "detectable_format:title",
        {},
        ["<<poem of joy>>\nRoses", "text <<a>> text", "<<<a>>>"],
        ["<poem>", "<<>>", "<< >>", "<<over\nlines>>", ">>a<<", "<<a>"],
    ),
    (
        "keywords:existence",
        {"keywords": ["joy", "c++"]},
        ["Joy of C++", "enjoyable c++11"],
        ["joy alone", "joy of c"],
    ),
    (
        "keywords:forbidden_words",
        {"forbidden_words": ["man", "old boy"]},
        ["a woman and men", "old boys"],
        ["A MAN.", "that old boy, he"],
    ),
    (
        "keywords:frequency",
        {"keyword": "war ", "frequency": 2, "relation": AT_LEAST},
        ["War and war", "toward a warm place"],
        ["war once", "none"],
    ),
    (
        "keywords:frequency",
        {"keyword": "war", "frequency": 2, "relation": LESS_THAN},
        ["war once", "none"],
        ["war, war"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "Q", "let_frequency": 2, "let_relation": AT_LEAST},
        ["quick Quiz"],
        ["quick", "none"],
    ),
    (
        "keywords:letter_frequency",
        {"letter": "#", "let_frequency": 2, "let_relation": LESS_THAN},
        ["#one", "none"],
        ["#one #two"],
    ),
    (
        "language:response_language",
        {"language": "de"},
        ["Das ist ein kurzer Text, den ich heute geschrieben habe.", "123 !!!"],  # what has no language has any
        ["This is a short text that I have written today.", "Questo è un breve testo in italiano."],
    ),
    (
        "length_constraints:nth_paragraph_first_word",
        {"num_paragraphs": 2, "nth_paragraph": 2, "first_word": "Summary"},
        ["One.\n\nSummary: two.", "One.\n\n'\"SUMMARY, two.\n\n", "One\nline.\n\nsummary"][1:],
        ["One.\n\nTwo.", "Summary\n\nTwo.", "One.\n\nSummary\n\nThree.", "Summary", "One.\n\nSummary: two.", "\n\nOne"],
    ),
    (
        "length_constraints:number_paragraphs",
        {"num_paragraphs": 2},
        ["one\n***\ntwo", "***one***two***", "one *** two"],
        ["one", "one\n\ntwo", "one******two", "one***two***three", "one\n* * *\ntwo"],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": AT_LEAST},
        ["One. Two.", "Is it? Yes."],
        ["One.", "Dr. Brown left at 5 p.m. on Monday."],
    ),
    (
        "length_constraints:number_sentences",
        {"num_sentences": 2, "relation": LESS_THAN},
        ["One.", "Mr. One is here."],
        ["One. Two."],
    ),
    (
        "length_constraints:number_words",
        {"num_words": 3, "relation": AT_LEAST},
        ["one two three", "don't stop", "a-b-c"],
        ["one two", "snake_case word"],
    ),
    ("length_constraints:number_words", {"num_words": 3, "relation": LESS_THAN}, ["one two"], ["one two three"]),
    ("punctuation:no_comma", {}, ["no such mark", "a\uff0cb"], ["one, two", "1,000"]),
    (
        "startend:end_checker",
        {"end_phrase": " Any questions? "},
        ["So. ANY QUESTIONS?", '"So. Any questions?"  \n'],
        ["Any questions? No.", "Any questions", "Any questions?."],
    ),
    ("startend:quotation", {}, ['"all of it"', ' "a" and "b"\n'], ['"', '"open', "'single'", "\u201ccurly\u201d"]),
]


@pytest.mark.parametrize(("name", "arguments", "right", "wrong"), CASES)
def test_what_follows_an_instruction(name, arguments, right, wrong):
    """Each response follows, or does not follow, as the authors' program says."""
    given = checked(name, arguments)
    assert [text for text in right if not follows(name, given, [text])] == []
    assert [text[:100] for text in wrong if follows(name, given, [text])] == []


def test_every_instruction_has_cases():
    """The table has all 25 instructions, and each has both kinds of cases."""
    assert {name for name, *_ in CASES} == CHECKS.keys()
    assert len(CHECKS) == 25


def test_blank_responses_follow_nothing():
    """A response of white space alone follows no instruction, although it has no comma."""
    for name, arguments, *_ in CASES:
        assert not follows(name, checked(name, arguments), ["", " \n\t"])


def test_loosened():
    """Loosely, a response also counts without asterisks, its first line, its last line, both, and all of these."""
    assert loosened("Sure:\n*a* b\n*Bye*") == [
        *("Sure:\n*a* b\n*Bye*", "*a* b\n*Bye*", "Sure:\n*a* b", "*a* b"),
        *("Sure:\na b\nBye", "a b\nBye", "Sure:\na b", "a b"),
    ]
    assert loosened("one line") == ["one line", ""]


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("keywords:existance", {}, "Did you mean 'keywords:existence'"),
        ("keywords:existence", {}, "needs keywords: a list of words"),
        ("keywords:existence", {"keywords": "joy"}, "keywords is 'joy'; it has to be a list of words"),
        ("keywords:existence", {"keywords": ["a"], "num_words": 3}, "has no argument 'num_words'; it has keywords"),
        ("punctuation:no_comma", {"x": 1}, "it has none"),
        ("length_constraints:number_words", {"num_words": 3, "relation": "at most"}, "'at least' or 'less than'"),
        ("length_constraints:number_words", {"num_words": -1, "relation": AT_LEAST}, "a whole number from 0"),
        ("keywords:letter_frequency", {"letter": "ab", "let_frequency": 1, "let_relation": AT_LEAST}, "one character"),
    ],
)
def test_wrong_instructions(name, arguments, message):
    """An unknown instruction, and an argument that is missing, foreign or of another kind, is said with what fits."""
    with pytest.raises(DataError, match=message):
        checked(name, arguments)


def test_no_arguments():
    """An instruction without arguments may have null for them; what is no object is refused by name."""
    assert instruction_targets(["punctuation:no_comma"], [None]) == instruction_targets(["punctuation:no_comma"], [{}])
    with pytest.raises(DataError, match=r"punctuation:no_comma: its arguments are '\{\}'; they have to be an object"):
        instruction_targets(["punctuation:no_comma"], ["{}"])


def test_the_layout_with_gaps():
    """Arguments that are left empty, and counts that a table made floats, mean what they mean without."""
    assert checked("length_constraints:number_words", {"num_words": 3.0, "relation": AT_LEAST, "letter": None}) == {
        "num_words": 3,
        "relation": AT_LEAST,
    }


# What NLTK 3.8.1 counts with its Punkt model for English.
SENTENCES = [
    ("", 0),
    ("   \n", 0),
    ("No mark at the end", 1),
    ("Dr. Brown left at 5 p.m. on Monday. He was late.", 2),
    ("Really?! Yes... no. Well!", 3),
    ("He paid $3.50. She paid 4.", 2),
    ("(It was late.) We left.", 2),
    ('"Stop!" she said. "Why?" he asked.', 4),
    ("See e.g. Fig. 3 for it. Mr. J. Doe agrees.", 4),
    ("We visited the U.S. It was warm.", 2),
    ("We visited the U.S. in May.", 1),
    ("First line\nSecond line\n\nThird.", 1),
    ("Items: 1. One 2. Two 3. Three", 4),
    ("one.two.three. four", 2),
    ('Ends with a quote." Next one.', 2),
    ("A. B. C. D.", 2),
    ("He is No. 1. She is No. 2.", 4),
    ("Hello!!! Bye!!!", 3),
]
CAPITAL_WORDS = [
    ("NASA and the UN met.", 2),
    ("DON'T PANIC", 3),
    ("It's I, said THE END.", 3),
    ("A-B-C and X-RAY", 2),
    ("WORD\u2014WORD", 1),
    ("U.S. and USA.", 2),
    ("CANNOT GIMME", 4),
    ("'TIS THE END", 4),
    ('"QUOTED" (BRACKETS) [A]', 3),
    ("A1 B2 3", 2),
    ("O'NEIL'S HOUSE", 3),
    ("WE'LL SEE. WE'VE SEEN.", 6),
    ("snake_CASE UPPER_CASE", 1),
    ("AND/OR", 1),
]


def test_sentences():
    """Sentences are counted as NLTK counted them when the benchmark was published, its mistakes included."""
    assert [(text, count_sentences(text)) for text, _ in SENTENCES] == SENTENCES


def test_capital_words():
    """Words in capitals are counted by the tokens of that NLTK."""
    assert [(text, count_capital_words(text)) for text, _ in CAPITAL_WORDS] == CAPITAL_WORDS


def test_words_are_runs_of_word_characters():
    """An apostrophe, a hyphen and a vowel sign of Devanagari divide words, an underscore does not."""
    assert count_words("don't x-y a_b 5.5") == 7
    assert count_words("\u0939\u093f\u0928") == 2


def test_languages():
    """Languages are told by their codes; a text without letters has none, and one that is told says the same twice."""
    texts = {
        "en": "This is a short English text that I wrote today.",
        "ru": "Это короткий текст на русском языке, который я написал сегодня.",
        "hi": "यह हिंदी में एक छोटा पाठ है जो मैंने आज लिखा है।",
        "ko": "이것은 오늘 제가 한국어로 쓴 짧은 글입니다.",
        None: "12:30 !!!",
    }
    assert [detect_language(text) for text in texts.values()] == list(texts)
    assert len({detect_language("A STORY OF A MAN. HE WAS OLD.") for _ in range(5)}) == 1


HOSTILE = [
    "[",
    "<<",
    "* ",
    "*",
    "- ",
    "\n",
    " \n",
    ". ",
    "a.",
    "!",
    "'",
    '"',
    "P.",
    "A",
    "SECTION ",
    "***",
    "x" * 50 + " ",
]


@pytest.mark.parametrize("unit", HOSTILE)
def test_checks_take_linear_time(unit):
    """Every instruction judges 20,000 hostile characters, loosely too, in seconds: nothing is quadratic."""
    text = unit * (20_000 // len(unit)) + "x"
    begun = time.perf_counter()
    for name, arguments, *_ in CASES:
        follows(name, checked(name, arguments), [text])
    assert time.perf_counter() - begun < 10


ROWS = [
    {
        "key": 1,
        "prompt": "Write without commas, in at least 3 words.",
        "instruction_id_list": ["punctuation:no_comma", "length_constraints:number_words"],
        "kwargs": [{}, {"num_words": 3, "relation": AT_LEAST}],
    },
    {
        "key": 2,
        "prompt": "Highlight it.",
        "instruction_id_list": ["detectable_format:number_highlighted_sections"],
        "kwargs": [{"num_highlights": 1}],
    },
    {
        "key": 3,
        "prompt": "In JSON.",
        "instruction_id_list": ["detectable_format:json_format"],
        "kwargs": [{"num_highlights": None, "relation": None}],
    },
]
ANSWERS = {
    ROWS[0]["prompt"]: "Well, no",
    ROWS[1]["prompt"]: "*so* it is",
    ROWS[2]["prompt"]: "Here it is:\n{}",
}


def test_the_four_numbers(tmp_path):
    """Prompts are averaged, instructions pooled over all prompts; loosely the first line may be a greeting."""
    result = evaluate(
        "ifeval", lambda prompt: ANSWERS[prompt], data=ROWS, storage=tmp_path.as_uri(), run_id="one", params={"a": 1}
    )
    assert result.metrics == {
        "prompt_level_strict": 1 / 3,
        "inst_level_strict": 1 / 4,
        "prompt_level_loose": 2 / 3,
        "inst_level_loose": 2 / 4,
    }
    assert result.report.metrics["inst_level_strict"].stderr_method.startswith("jackknife")
    assert result.report.status == "complete"


def test_an_evaluation_says_what_was_followed():
    """The value has the counts, the answer and the explanation the names, the metadata a truth for each instruction."""
    (sample, *_) = load_benchmark("ifeval", data=ROWS).samples()
    record = evaluate_generation(IFEVAL_METRICS[1], sample, GenerationRecord("g", "p", "One and two and three, four"))
    assert (record.value, record.score, record.metadata) == ([1, 2], 0.5, {"followed": [False, True]})
    assert record.answer == "follows length_constraints:number_words"
    assert record.explanation == "does not follow punctuation:no_comma"


def test_an_empty_response_is_no_answer():
    """It is scored 0, is counted as unanswered, and its instructions stay in the denominator."""
    (sample, *_) = load_benchmark("ifeval", data=ROWS).samples()
    record = evaluate_generation(IFEVAL_METRICS[1], sample, GenerationRecord("g", "p", " "))
    assert (record.value, record.score, record.answer) == ([0, 2], 0.0, None)


def test_rows_of_another_tool():
    """The metrics are known by name, and read a row that another tool kept whole as the sample's metadata."""
    sample = Sample("1", "...", target="0", metadata=ROWS[2])
    record = evaluate_generation(load_metric("prompt_level_loose"), sample, GenerationRecord("g", "p", "{}"))
    assert record.score == 1.0
    other = evaluate_generation(
        load_metric("prompt_level_loose"), Sample("1", "x", "y"), GenerationRecord("g", "p", "{}")
    )
    assert (other.error_kind, "rows of ifeval" in other.error_message) == ("scorer", True)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"instruction_id_list": ["punctuation:no_coma"], "kwargs": [{}]}, "row 1: unknown instruction"),
        ({"kwargs": [{}]}, "row 1 has 2 instructions, but kwargs for 1"),
        ({"kwargs": [{}, {"num_words": 3}]}, "row 1: length_constraints:number_words needs relation"),
        ({"kwargs": None}, "row 1 needs a list of dict as 'kwargs'"),
        ({"instruction_id_list": [1]}, "row 1 needs a list of str as 'instruction_id_list'"),
        ({"prompt": ""}, "'prompt'"),
    ],
)
def test_wrong_rows(change, message):
    """A row that cannot be used is named, with what is wrong with it."""
    with pytest.raises(DataError, match=message):
        list(load_benchmark("ifeval", data=[ROWS[0] | change]).samples())


def test_a_benchmark_without_instructions(tmp_path):
    """The metrics are refused for other benchmarks before anything is asked."""
    with pytest.raises(UsageError, match="'inst_level_strict' does not fit this benchmark: the target '18' is no"):
        evaluate([{"question": "?", "target": ["18"]}], print, metrics="inst_level_strict", storage=tmp_path.as_uri())


def test_metrics_travel():
    """They pickle, equal configurations are equal, and the instructions are part of an evaluation's id."""
    assert pickle.loads(pickle.dumps(IFEVAL_METRICS)) == IFEVAL_METRICS
    generation = GenerationRecord("g", "p", "a b c")
    samples = [Sample("1", "p", instruction_targets([name], [{"num_words": n, "relation": AT_LEAST}]))
               for name in ["length_constraints:number_words"] for n in (3, 4)]  # fmt: skip
    first, second = (evaluate_generation(IFEVAL_METRICS[0], sample, generation) for sample in samples)
    assert (first.score, second.score) == (1.0, 0.0)
    assert first.id != second.id


def test_the_published_rows(benchmark_data):
    """All 541 prompts with their 834 instructions of 25 kinds are understood, in the hub's layout with gaps too."""
    samples = list(load_benchmark("ifeval").samples())
    names = [json.loads(text)["instruction"] for sample in samples for text in sample.target]
    assert (len(samples), len(names), set(names)) == (541, 834, set(CHECKS))

    lines = (benchmark_data / "ifeval" / "input_data.jsonl").read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    every = {name for row in rows for each in row["kwargs"] for name in each}
    gaps = [row | {"kwargs": [dict.fromkeys(every) | each for each in row["kwargs"]]} for row in rows]
    assert [sample.target for sample in load_benchmark("ifeval", data=gaps).samples()] == [s.target for s in samples]


def test_the_published_rows_can_be_judged(benchmark_data):
    """Each prompt judges itself and a shuffled other prompt as responses, strictly at most as well as loosely."""
    samples = list(load_benchmark("ifeval").samples())
    others = random.Random(3).sample(samples, len(samples))
    for sample, other in zip(samples, others, strict=True):
        for response in (sample.input, other.input):
            generation = GenerationRecord("g", "p", response)
            strict, _, loose, _ = (evaluate_generation(metric, sample, generation) for metric in IFEVAL_METRICS)
            assert strict.status == loose.status == "ok"
            assert strict.score <= loose.score
