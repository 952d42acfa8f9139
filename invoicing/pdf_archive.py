"""PDF files for the archive: PDF/A-2b, or PDF/A-3b with the e-invoice inside (Factur-X).

pikepdf writes and validates; it is an extra (`einvoice`). What does not pass is not handed out.
"""

import hashlib
import re
from datetime import UTC, datetime
from functools import cache
from io import BytesIO
from typing import Any, Final

from engine.errors import BillingError

_METADATA_DATE: Final = re.compile(rb"(<xmp:MetadataDate>)[^<]*")
_NO_DATE: Final = rb"\g<1>2000-01-01T00:00:00+00:00"
FACTURX_NAME: Final = "factur-x.xml"
_FACTURX: Final = "urn:factur-x:pdfa:CrossIndustryDocument:invoice:1p0#"
_EXTENSION: Final = """
<rdf:Description rdf:about="" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
  xmlns:pdfaExtension="http://www.aiim.org/pdfa/ns/extension/"
  xmlns:pdfaSchema="http://www.aiim.org/pdfa/ns/schema#"
  xmlns:pdfaProperty="http://www.aiim.org/pdfa/ns/property#">
 <pdfaExtension:schemas><rdf:Bag><rdf:li rdf:parseType="Resource">
  <pdfaSchema:schema>Factur-X PDFA Extension Schema</pdfaSchema:schema>
  <pdfaSchema:namespaceURI>{namespace}</pdfaSchema:namespaceURI>
  <pdfaSchema:prefix>fx</pdfaSchema:prefix>
  <pdfaSchema:property><rdf:Seq>{properties}</rdf:Seq></pdfaSchema:property>
 </rdf:li></rdf:Bag></pdfaExtension:schemas>
</rdf:Description>
<rdf:Description rdf:about="" xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"
  xmlns:fx="{namespace}" fx:DocumentType="INVOICE" fx:DocumentFileName="{name}"
  fx:Version="1.0" fx:ConformanceLevel="EN 16931"/>
"""
_PROPERTY: Final = """<rdf:li rdf:parseType="Resource">
<pdfaProperty:name>{name}</pdfaProperty:name>
<pdfaProperty:valueType>Text</pdfaProperty:valueType>
<pdfaProperty:category>external</pdfaProperty:category>
<pdfaProperty:description>{words}</pdfaProperty:description></rdf:li>"""
_PROPERTIES: Final = (
    ("DocumentFileName", "name of the embedded XML invoice file"),
    ("DocumentType", "INVOICE"),
    ("Version", "version of the Factur-X XML schema"),
    ("ConformanceLevel", "conformance level of the embedded XML"),
)


@cache
def _tools() -> tuple[Any, Any] | None:
    """pikepdf and its part for archives; None where the extra is not installed."""
    try:
        # A fifth of what the application takes to start: it waits for the first file.
        import pikepdf  # noqa: PLC0415
        from pikepdf import pdfa  # noqa: PLC0415
    except ImportError:
        return None
    return pikepdf, pdfa


def can_archive() -> bool:
    """Whether the extra is installed."""
    return _tools() is not None


def _facturx_description() -> str:
    properties = "".join(_PROPERTY.format(name=name, words=words) for name, words in _PROPERTIES)
    return _EXTENSION.format(namespace=_FACTURX, properties=properties, name=FACTURX_NAME)


def _attach(pdf: Any, xml: bytes, at: datetime, *, pikepdf: Any) -> None:
    """The XML as an associated file: an alternative to what the pages say."""
    written = f"D:{at.astimezone(UTC):%Y%m%d%H%M%S}Z"
    stream = pdf.make_stream(
        xml,
        Type=pikepdf.Name.EmbeddedFile,
        Subtype=pikepdf.Name("/text/xml"),
        Params=pikepdf.Dictionary(
            Size=len(xml),
            ModDate=written,
            CheckSum=hashlib.md5(xml, usedforsecurity=False).digest(),
        ),
    )
    entry = pdf.make_indirect(
        pikepdf.Dictionary(
            Type=pikepdf.Name.Filespec,
            F=FACTURX_NAME,
            UF=FACTURX_NAME,
            Desc="Factur-X invoice",
            AFRelationship=pikepdf.Name.Alternative,
            EF=pikepdf.Dictionary(F=stream, UF=stream),
        )
    )
    pdf.Root.Names = pikepdf.Dictionary(
        EmbeddedFiles=pikepdf.Dictionary(Names=pikepdf.Array([FACTURX_NAME, entry]))
    )
    pdf.Root.AF = pikepdf.Array([entry])


def archive_pdf(
    *, content: bytes, title: str, language: str, issued_at: datetime, xml: bytes | None = None
) -> bytes:
    """The drawn `content` as PDF/A; with `xml` (a CII e-invoice) as Factur-X.

    Equal bytes for equal arguments. `archive_unavailable` without the extra;
    `pdf_not_archivable` names the rules that the file breaks.
    """
    tools = _tools()
    if tools is None:
        raise BillingError("archive_unavailable", "the extra `einvoice` is not installed")
    pikepdf, pdfa = tools
    flavour = "2b" if xml is None else "3b"
    out = BytesIO()
    with pikepdf.open(BytesIO(content)) as pdf:
        for page in pdf.pages:
            if "/Trans" in page:
                del page["/Trans"]
            for note in page.get("/Annots", ()):
                note.F = 4  # printed with the page, as the standard asks
        pdf.Root.Lang = pikepdf.String(language)
        if xml is not None:
            _attach(pdf, xml, issued_at, pikepdf=pikepdf)
        _describe(pdf, title=title, flavour=flavour)
        pdfa.prepare(pdf, flavour)
        _date_metadata(pdf)
        try:
            report = pdfa.save(pdf, out, flavour, repair=False, deterministic_id=True)
        except pdfa.PdfaError as error:
            raise BillingError("pdf_not_archivable", str(error)[:1000]) from error
        if xml is not None:  # pikepdf knows no extension schemas: this alone is unvalidated
            text = pdf.Root.Metadata.read_bytes()
            marked = text.replace(b"</rdf:RDF>", _facturx_description().encode() + b"</rdf:RDF>")
            pdf.Root.Metadata.write(marked)
            out = BytesIO()
            pdf.save(out, **report.save_kwargs)
    return out.getvalue()


def _date_metadata(pdf: Any) -> None:
    """The clock is left out of the metadata: its date is that of the document information."""
    text = pdf.Root.Metadata.read_bytes()
    pdf.Root.Metadata.write(_METADATA_DATE.sub(_NO_DATE, text))


def _describe(pdf: Any, *, title: str, flavour: str) -> None:
    if "/Trapped" in pdf.docinfo:
        del pdf.docinfo["/Trapped"]  # says nothing, and has no place in XMP
    with pdf.open_metadata(set_pikepdf_as_editor=False, update_docinfo=False) as metadata:
        metadata.load_from_docinfo(pdf.docinfo)
        metadata["dc:title"] = title
        metadata["pdfaid:part"] = flavour[0]
        metadata["pdfaid:conformance"] = flavour[1].upper()
