"""What comes out of files of each format."""

from __future__ import annotations

import io
import subprocess
import sys
import zipfile
from itertools import pairwise

import pytest

from agentprm.errors import InputError
from agentprm.retrievers import load_folder
from agentprm.retrievers.html_text import read_html


def load(tmp_path, name, content):
    (tmp_path / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return load_folder(tmp_path / name)


def one(tmp_path, name, content):
    (document,), skipped = load(tmp_path, name, content)
    assert skipped == []
    return document


@pytest.mark.parametrize(
    ("html", "text"),
    [
        ("<html><head><title>T</title><p>no end of head", "no end of head"),
        ("<head><noscript><p>after", "after"),
        ("<p>a<noscript>turn it on<p>after</p>", "a\nturn it on\n\nafter"),
        ("H<sub>2</sub>O and <b>un</b>believable", "H2O and unbelievable"),
        ("10<sup>6</sup> m<sup>2</sup>", "10^6 m2"),
        ("<p>one<p>two<div>three<br>four</div>five", "one\n\ntwo\n\nthree\nfour\nfive"),
        (
            "<table><tr><th>Name<th>Born<tr><td>Ada <i>L</i>.<td>1815</table>",
            "| Name | Born |\n| Ada L. | 1815 |",
        ),
        ("<table><tr><td><p>menu<p>more<td>main</table>", "menu\n\nmore\nmain"),
        ("<pre>\nif x:\n    y = 1\n</pre>z", "if x:\n    y = 1\n\nz"),
        ("<ul><li>a<ul><li>b</ul><li>c</ul>d", "- a\n- b\n- c\n\nd"),
        ("a &lt;b&gt; &amp; c&nbsp;d &#x1F600;", "a <b> & c d 😀"),
        ("x<script>'<p>y'</script><style>p{}</style><!-- z -->w", "xw"),
        ("日<b>本</b>語。\n<span>次</span>", "日本語。 次"),
        ("hy\u00adphen", "hyphen"),
        ("only text", "only text"),
    ],
)
def test_html(html, text):
    assert read_html(html).text == text


def test_title_of_a_page(tmp_path):
    assert one(tmp_path, "a.html", "<title> My\n page </title>x").metadata["title"] == "My page"
    assert one(tmp_path, "a.html", "<h1>Big <i>one</i></h1><h1>Two</h1>").metadata["title"] == "Big one"
    assert one(tmp_path, "a.html", "<svg><title>icon</title></svg>x").metadata["title"] == "a"


@pytest.mark.parametrize(
    "page",
    [
        '<meta charset="latin-1"><p>café'.encode("latin-1"),
        '<meta http-equiv=Content-Type content="text/html; charset=windows-1252"><p>café'.encode("cp1252"),
        '<?xml version="1.0" encoding="latin-1"?><p>café'.encode("latin-1"),
        '<meta charset="latin-1"><p>café'.encode(),  # wrong, but readable
        "<p>café".encode("utf-16"),
    ],
)
def test_a_page_may_declare_its_encoding(tmp_path, page):
    assert one(tmp_path, "a.html", page).page_content == "café"


@pytest.mark.parametrize("charset", ["", '<meta charset="zlib">', '<meta charset="no-such">'])
def test_a_page_in_an_unknown_encoding_is_named(tmp_path, charset):
    with pytest.raises(InputError, match=r"a\.html: not text"):
        load(tmp_path, "a.html", f"{charset}<p>café".encode("latin-1"))


def test_titles_are_bounded(tmp_path):
    documents, _ = load(tmp_path, "a.md", f"# {'word ' * 1000}\n\ntext")
    assert all(len(d.metadata["title"]) <= 300 for d in documents)
    assert sum(d.page_content.count("word") for d in documents) >= 1000


@pytest.mark.parametrize("heading", ["#", "# ![](x)"])
def test_a_few_headings_are_tried_for_a_title(tmp_path, monkeypatch, heading):
    """A file of thousands that show no text makes one parser for them, and not one for each."""
    markdown_it = pytest.importorskip("markdown_it").MarkdownIt
    made = []
    create = markdown_it.__init__
    monkeypatch.setattr(markdown_it, "__init__", lambda *args: made.append(1) or create(*args))
    tried = []
    parse = markdown_it.parseInline
    monkeypatch.setattr(markdown_it, "parseInline", lambda *args: tried.append(1) or parse(*args))
    documents, _ = load(tmp_path, "a.md", f"{heading}\n" * 2000 + "text")
    assert documents[0].metadata["title"] == "a"
    assert len(made) <= 2
    assert len(tried) <= 100


def test_front_matter_of_a_stranger_runs_nothing_and_ends(tmp_path):
    bomb = "a: &a [x, x]\n" + "".join(f"{n}: &{n} [*{p}, *{p}]\n" for p, n in pairwise("abcdefghijklmn"))
    for front in (bomb, "title: !!python/object/apply:os.system ['false']", "[" * 900, "a: &a\n  <<: *a"):
        assert one(tmp_path, "a.md", f"---\n{front}\n---\nx").metadata["title"] == "a"


def test_a_page_nested_without_end_is_named(tmp_path):
    (tmp_path / "good.txt").write_text("good")
    (tmp_path / "deep.html").write_text("<div>" * 5000 + "x")
    documents, skipped = load_folder(tmp_path)
    assert [d.page_content for d in documents] == ["good"]
    assert "nested" in skipped[0].reason
    with pytest.raises(InputError):
        read_html("<b>" * 100_000 + "</p>" * 100_000)


@pytest.mark.parametrize(
    ("markdown", "title"),
    [
        ("text\n\n# Heading #\n", "Heading"),
        ("```sh\n# a comment\n```\n\n# Real", "Real"),
        ("~~~\n# a\n```\n# b\n~~~\n## Real", "Real"),
        ("    # code\n\nSetext\n======\n", "Setext"),
        ('---\ntitle: "From: front"\n# not this\n---\n# Heading', "From: front"),
        ("---\nauthor: me\n# comment\n---\n\n# Heading", "Heading"),
        ("---\ntitle: [broken\n---\n# Heading", "Heading"),
        ("# **Bold** `code` and [a link](http://x)", "Bold code and a link"),
        ("#no heading\n\n#", "a"),
        ("----\nno front matter: 1\n", "a"),
    ],
)
def test_titles_of_markdown(tmp_path, markdown, title):
    document = one(tmp_path, "a.md", markdown)
    assert document.metadata["title"] == title
    assert document.page_content == markdown.strip()


def test_csv_gives_a_passage_a_line(tmp_path):
    documents, skipped = load(tmp_path, "a.csv", 'Name;Born\nAda;1815\n"A; ""B""\nC";\n;;\n')
    assert [d.page_content for d in documents] == ["Name: Ada\nBorn: 1815", 'Name: A; "B"\nC']
    assert [d.id for d in documents] == ["a.csv:2#0", "a.csv:4#0"]
    documents, skipped = load(tmp_path, "b.csv", "id,title,text,year\n7,T,hello,1999\n8,,,\n")
    assert [(d.id, d.page_content, d.metadata["year"]) for d in documents] == [("7", "T\nhello", "1999")]
    assert [s.source for s in skipped] == ["b.csv:3"]
    documents, skipped = load(tmp_path, "c.csv", "a,b\n1,2\n" + "x" * 200_000 + ",3\n4,5\n")
    assert [d.page_content for d in documents] == ["a: 1\nb: 2"]
    assert "not CSV" in skipped[0].reason


def test_csv_columns_are_known_with_capitals(tmp_path):
    documents, _ = load(tmp_path, "a.csv", "ID,Title,Text,Year\n7,T,hello,1999\n")
    assert [(d.id, d.page_content, d.metadata["title"]) for d in documents] == [("7", "T\nhello", "T")]
    assert documents[0].metadata["Year"] == "1999"
    documents, _ = load(tmp_path, "b.csv", "Text,text\nlong,short\n")
    assert [(d.page_content, d.metadata["Text"]) for d in documents] == [("short", "long")]
    documents, _ = load(tmp_path, "c.csv", "Title,Town\nA,B\n")
    assert [(d.page_content, d.metadata["title"]) for d in documents] == [("Title: A\nTown: B", "A")]


def pdf(*pages):
    from pypdf import PdfWriter
    from pypdf.generic import DecodedStreamObject, DictionaryObject, NameObject

    writer = PdfWriter()
    font = DictionaryObject(
        {
            NameObject("/Type"): NameObject("/Font"),
            NameObject("/Subtype"): NameObject("/Type1"),
            NameObject("/BaseFont"): NameObject("/Helvetica"),
        }
    )
    for text in pages:
        page = writer.add_blank_page(300, 300)
        stream = DecodedStreamObject()
        stream.set_data(f"BT /F1 12 Tf 20 200 Td ({text}) Tj ET".encode())
        page[NameObject("/Contents")] = writer._add_object(stream)
        page[NameObject("/Resources")] = DictionaryObject(
            {NameObject("/Font"): DictionaryObject({NameObject("/F1"): font})}
        )
    writer.add_metadata({"/Title": "The Paper"})
    data = io.BytesIO()
    writer.write(data)
    return data.getvalue()


def test_pdf_gives_a_passage_a_page(tmp_path):
    pytest.importorskip("pypdf")
    documents, skipped = load(tmp_path, "p.pdf", pdf("First page", "", "Third page"))
    assert [(d.id, d.page_content, d.metadata["page"]) for d in documents] == [
        ("p.pdf:1#0", "First page", 1),
        ("p.pdf:3#0", "Third page", 3),
    ]
    assert documents[0].metadata["title"] == "The Paper"
    assert skipped[0].source == "p.pdf:2"
    whole = pdf("text")
    for broken in (b"%PDF-1.4\nnothing", whole[: len(whole) // 2], b"\x00" * 50):
        with pytest.raises(InputError, match=r"p\.pdf"):
            load(tmp_path, "p.pdf", broken)


def test_word(tmp_path):
    docx = pytest.importorskip("docx")
    document = docx.Document()
    document.add_heading("My Report", 1)
    document.add_paragraph("Hello H").add_run("2O")
    table = document.add_table(2, 2)
    for i, cell in enumerate(cell for row in table.rows for cell in row.cells):
        cell.text = f"c{i}"
    document.add_paragraph("End")
    document.save(tmp_path / "w.docx")
    (found,), skipped = load_folder(tmp_path)
    assert skipped == []
    assert found.page_content == "My Report\n\nHello H2O\n\n| c0 | c1 |\n| c2 | c3 |\n\nEnd"
    assert found.metadata["title"] == "My Report"
    with pytest.raises(InputError, match="not a Word file"):
        load(tmp_path, "w.docx", b"PK\x03\x04 nothing")


def test_a_word_file_that_unpacks_to_a_huge_one_is_refused(tmp_path):
    pytest.importorskip("docx")
    data = io.BytesIO()
    with (
        zipfile.ZipFile(data, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("word/x.xml", "w") as entry,
    ):
        for _ in range(300):
            entry.write(b" " * (1 << 20))
    with pytest.raises(InputError, match="unpacks"):
        load(tmp_path, "w.docx", data.getvalue())


def test_a_base_install_names_what_it_cannot_read_and_goes_on(tmp_path):
    for name in ("a.html", "b.pdf", "c.docx", "d.md", "e.txt", "f.csv"):
        (tmp_path / name).write_text("# text\ntext")
    code = (
        "import sys\n"
        "for name in ('lxml', 'lxml.etree', 'pypdf', 'docx', 'markdown_it', 'langchain_text_splitters'):\n"
        "    sys.modules[name] = None\n"
        "from agentprm.retrievers import load_folder\n"
        f"documents, skipped = load_folder({str(tmp_path)!r})\n"
        "assert [d.id for d in documents] == ['e.txt#0', 'f.csv:2#0'], documents\n"
        "reasons = {s.source: s.reason for s in skipped}\n"
        "assert sorted(reasons) == ['a.html', 'b.pdf', 'c.docx', 'd.md']\n"
        'assert all("pip install \'agentprm[" in reason for reason in reasons.values()), reasons\n'
    )
    subprocess.run([sys.executable, "-c", code], check=True)
