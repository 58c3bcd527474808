"""Sentences in many scripts, random strings, and sentencepiece models trained on them."""

from __future__ import annotations

import io
import random
from typing import Any

SENTENCES = [
    "The quick brown fox jumps over the lazy dog, isn't it? “Yes”, she said: it's 1,234.50 €!",
    "Zażółć gęślą jaźń; Ünïcödé naïve façade — Škoda, œuvre, Straße.",
    "Съешь ещё этих мягких французских булок, да выпей чаю.",
    "Ξεσκεπάζω την ψυχοφθόρα βδελυγμία.",
    "مرحبا بالعالم، كيف حالك اليوم؟ اللُّغَةُ العَرَبِيَّة",
    "שלום עולם, מה שלומך היום? בְּרֵאשִׁית",
    "नमस्ते दुनिया, आप कैसे हैं? क्षत्रिय",
    "สวัสดีชาวโลก ภาษาไทยไม่มีช่องว่าง",
    "漢字かな交じり文です。カタカナもあります。",
    "我们今天学习自然语言处理，很有意思！",
    "안녕하세요 세계, 한국어 문장입니다.",
    "ሰላም ለዓለም። გამარჯობა მსოფლიო",
    "👩‍👩‍👧 😀 🏳️‍🌈 👍🏽 emoji with joiners e\u0301 a\u0308\u0323 ﬁne ½ ™ Ⅷ",
    "tab\there, line\nbreak\r\n, zero\u200bwidth, nbsp\u00a0, bell\x07, nul\x00, bom\ufeff, \ufffd end",
    "``quoted'' text   with    spaces  ",
    "",
    " ",
]


def random_texts(seed: int, count: int, longest: int = 24) -> list[str]:
    """Mixtures of pieces of the sentences and of any code points but surrogates."""
    rng = random.Random(seed)

    def part() -> str:
        kind = rng.random()
        if kind < 0.5:
            sentence = rng.choice(SENTENCES)
            start = rng.randint(0, len(sentence))
            return sentence[start : start + rng.randint(1, 9)]
        if kind < 0.65:
            return rng.choice([" ", "\n", "\t", "\u00a0", "\u3000", "  ", "▁", "##", "[", "<"])
        code = rng.randint(0, 0x2FF if kind < 0.8 else 0xFFFF if kind < 0.95 else 0x10FFFF)
        return "字" if 0xD800 <= code < 0xE000 else chr(code)

    return ["".join(part() for _ in range(rng.randint(0, longest))) for _ in range(count)]


def sentencepiece_model(**options: Any) -> bytes:
    """A small model trained on the sentences by the sentencepiece package."""
    import sentencepiece

    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([s for s in SENTENCES if s.strip() and "\x00" not in s] * 3),
        model_writer=written,
        **{
            "vocab_size": 420,
            "character_coverage": 1.0,
            "hard_vocab_limit": False,
            "minloglevel": 2,
            **options,
        },
    )
    return written.getvalue()
