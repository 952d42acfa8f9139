"""What our mails say, by language and kind: subject and text. Pure.

A line whose blanks have no value is left out.
"""

from collections.abc import Mapping
from types import MappingProxyType
from typing import Final

from plans.mailing import EmailKind

_INVOICE: Final = EmailKind.INVOICE
_NOTE: Final = EmailKind.CREDIT_NOTE
_RECEIPT: Final = EmailKind.RECEIPT


def _text(greeting: str, sentence: str, facts: tuple[str, ...], closing: str) -> str:
    return "\n".join((greeting, "", sentence, "", *facts, "", closing, "{seller}"))


def _language(
    greeting: str,
    closing: str,
    *,
    invoice: tuple[str, str, str, str, str],
    note: tuple[str, str],
    receipt: tuple[str, str, str, str],
) -> Mapping[EmailKind, tuple[str, str]]:
    """`invoice`: subject, sentence, amount due, due date, PO; `note`: subject, sentence.

    `receipt`: subject, sentence, what it paid, reference.
    """
    due = (f"{invoice[2]}: {{amount_due}}", f"{invoice[3]}: {{due_on}}")
    order = f"{invoice[4]}: {{po_number}}"
    paid = (f"{receipt[2]}: {{invoices}}", f"{receipt[3]}: {{reference}}")
    return MappingProxyType(
        {
            _INVOICE: (invoice[0], _text(greeting, invoice[1], (*due, order), closing)),
            _NOTE: (note[0], _text(greeting, note[1], (order,), closing)),
            _RECEIPT: (receipt[0], _text(greeting, receipt[1], paid, closing)),
        }
    )


MAIL_WORDS: Final[Mapping[str, Mapping[EmailKind, tuple[str, str]]]] = MappingProxyType(
    {
        "en": _language(
            "Hello {customer},",
            "Kind regards",
            invoice=(
                "Invoice {number} from {seller}",
                "your invoice {number} of {issued_on} over {total} is attached.",
                "Amount due",
                "Due on",
                "PO number",
            ),
            note=(
                "Credit note {number} from {seller}",
                "your credit note {number} of {issued_on} over {total} is attached.",
            ),
            receipt=(
                "Receipt for your payment to {seller}",
                "thank you for your payment of {total} on {issued_on}; the receipt is attached.",
                "Paid",
                "Reference",
            ),
        ),
        "de": _language(
            "Guten Tag {customer},",
            "Mit freundlichen Grüßen",
            invoice=(
                "Rechnung {number} von {seller}",
                "im Anhang finden Sie die Rechnung {number} vom {issued_on} über {total}.",
                "Zu zahlen",
                "Fällig am",
                "Bestellnummer",
            ),
            note=(
                "Gutschrift {number} von {seller}",
                "im Anhang finden Sie die Gutschrift {number} vom {issued_on} über {total}.",
            ),
            receipt=(
                "Beleg für Ihre Zahlung an {seller}",
                "vielen Dank für Ihre Zahlung von {total} am {issued_on}; der Beleg liegt bei.",
                "Bezahlt",
                "Verwendungszweck",
            ),
        ),
        "fr": _language(
            "Bonjour {customer},",
            "Cordialement",
            invoice=(
                "Facture {number} de {seller}",
                "veuillez trouver ci-joint la facture {number} du {issued_on}, total : {total}.",
                "Montant dû",
                "Échéance",
                "Numéro de commande",
            ),
            note=(
                "Avoir {number} de {seller}",
                "veuillez trouver ci-joint l'avoir {number} du {issued_on}, total : {total}.",
            ),
            receipt=(
                "Reçu de votre paiement à {seller}",
                "merci pour votre paiement de {total} du {issued_on} ; le reçu est joint.",
                "Payé",
                "Référence",
            ),
        ),
        "es": _language(
            "Hola, {customer}:",
            "Un cordial saludo",
            invoice=(
                "Factura {number} de {seller}",
                "Adjuntamos la factura {number} del {issued_on} por {total}.",
                "Importe pendiente",
                "Vencimiento",
                "Número de pedido",
            ),
            note=(
                "Nota de crédito {number} de {seller}",
                "Adjuntamos la nota de crédito {number} del {issued_on} por {total}.",
            ),
            receipt=(
                "Recibo de su pago a {seller}",
                "Gracias por su pago de {total} del {issued_on}; adjuntamos el recibo.",
                "Pagado",
                "Referencia",
            ),
        ),
        "it": _language(
            "Buongiorno {customer},",
            "Cordiali saluti",
            invoice=(
                "Fattura {number} di {seller}",
                "in allegato trova la fattura {number} del {issued_on} per {total}.",
                "Importo dovuto",
                "Scadenza",
                "Numero d'ordine",
            ),
            note=(
                "Nota di credito {number} di {seller}",
                "in allegato trova la nota di credito {number} del {issued_on} per {total}.",
            ),
            receipt=(
                "Ricevuta del pagamento a {seller}",
                "grazie per il pagamento di {total} del {issued_on}; la ricevuta è in allegato.",
                "Pagato",
                "Riferimento",
            ),
        ),
        "nl": _language(
            "Beste {customer},",
            "Met vriendelijke groet",
            invoice=(
                "Factuur {number} van {seller}",
                "in de bijlage vindt u factuur {number} van {issued_on} over {total}.",
                "Te betalen",
                "Vervaldatum",
                "Inkoopnummer",
            ),
            note=(
                "Creditnota {number} van {seller}",
                "in de bijlage vindt u creditnota {number} van {issued_on} over {total}.",
            ),
            receipt=(
                "Bewijs van uw betaling aan {seller}",
                "dank u voor uw betaling van {total} op {issued_on}; het bewijs is bijgevoegd.",
                "Betaald",
                "Kenmerk",
            ),
        ),
        "pt": _language(
            "Olá, {customer}:",
            "Com os melhores cumprimentos",
            invoice=(
                "Fatura {number} de {seller}",
                "Segue em anexo a fatura {number} de {issued_on}, no valor de {total}.",
                "Valor a pagar",
                "Vencimento",
                "Número da encomenda",
            ),
            note=(
                "Nota de crédito {number} de {seller}",
                "Segue em anexo a nota de crédito {number} de {issued_on}, no valor de {total}.",
            ),
            receipt=(
                "Recibo do seu pagamento a {seller}",
                "Obrigado pelo pagamento de {total} em {issued_on}; o recibo segue em anexo.",
                "Pago",
                "Referência",
            ),
        ),
        "ja": _language(
            "{customer} 御中",
            "今後ともよろしくお願いいたします。",
            invoice=(
                "{seller} 請求書 {number}",
                "{issued_on}付の請求書 {number}（合計 {total}）を添付いたします。",
                "ご請求額",
                "お支払期限",
                "発注番号",
            ),
            note=(
                "{seller} クレジットノート {number}",
                "{issued_on}付のクレジットノート {number}（合計 {total}）を添付いたします。",
            ),
            receipt=(
                "{seller} お支払いの領収書",
                "{issued_on}に {total} のお支払いをいただきました。領収書を添付いたします。",
                "お支払い対象",
                "参照番号",
            ),
        ),
        "ar": _language(
            "مرحبا {customer}،",
            "مع أطيب التحيات",
            invoice=(
                "فاتورة {number} من {seller}",
                "تجدون مرفقا الفاتورة {number} بتاريخ {issued_on} بمبلغ {total}.",
                "المبلغ المستحق",
                "تاريخ الاستحقاق",
                "رقم أمر الشراء",
            ),
            note=(
                "إشعار دائن {number} من {seller}",
                "تجدون مرفقا الإشعار الدائن {number} بتاريخ {issued_on} بمبلغ {total}.",
            ),
            receipt=(
                "إيصال دفعتكم إلى {seller}",
                "شكرا لدفعتكم بمبلغ {total} بتاريخ {issued_on}؛ الإيصال مرفق.",
                "المدفوع",
                "المرجع",
            ),
        ),
        "he": _language(
            "שלום {customer},",
            "בברכה",
            invoice=(
                "חשבונית {number} מאת {seller}",
                "מצורפת חשבונית {number} מיום {issued_on} על סך {total}.",
                "לתשלום",
                "מועד התשלום",
                "מספר הזמנת רכש",
            ),
            note=(
                "הודעת זיכוי {number} מאת {seller}",
                "מצורפת הודעת זיכוי {number} מיום {issued_on} על סך {total}.",
            ),
            receipt=(
                "קבלה על התשלום שלכם אל {seller}",
                "תודה על התשלום של {total} ביום {issued_on}; הקבלה מצורפת.",
                "שולם",
                "אסמכתה",
            ),
        ),
    }
)
