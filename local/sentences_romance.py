"""Grammars of Spanish, French and Italian for corpora that are made up.

Nouns carry their articles and verbs are in the third person, so that nothing has to agree.
"""

from __future__ import annotations

from sentences import Rules

PHRASES = {
    "SENTENCE": (
        "who does what",
        "who does what where",
        "who does what when",
        "when who does what",
        "who moves where",
        "who moves where when",
        "name does what where",
        "name moves where when",
    ),
}

SPANISH = {
    "who": """el médico / la maestra / el panadero / la vecina / el pintor / mi hermana / tu primo /
        el abogado / la cantante / el soldado / la abuela / el jardinero / nuestra tía / el niño /
        la reina / el viajero / su padre / la enfermera""",
    "name": "ana / pedro / lucía / jorge / marta / miguel / elena / raúl / carmen / diego",
    "does": """compra / pinta / busca / lleva / rompe / vende / mira / esconde / limpia / recoge /
        olvida / encuentra / abre / dibuja / guarda / arregla""",
    "what": """la mesa / el libro / una botella / los zapatos / el reloj / la llave / una guitarra /
        el pañuelo / tres manzanas / cinco huevos / la carta / el espejo / una silla / el queso /
        las flores / un caballo / la lámpara / el sombrero / diez monedas / la cuchara""",
    "moves": """camina / espera / trabaja / descansa / corre / canta / baila / duerme / viaja /
        llora""",
    "where": """en la plaza / cerca del río / en el mercado / detrás de la iglesia / junto al mar /
        bajo el puente / en la montaña / dentro del castillo / frente a la escuela / en el jardín /
        hacia el pueblo / por la calle""",
    "when": """hoy / mañana / el lunes / por la noche / en verano / cada viernes / esta tarde /
        al amanecer / el domingo / muy temprano / en invierno""",
}

FRENCH = {
    "who": """le médecin / la voisine / le boulanger / ma soeur / ton cousin / le peintre /
        la chanteuse / le soldat / la reine / le jardinier / notre tante / le garçon / la fille /
        le voyageur / son père / la bergère""",
    "name": "marie / pierre / claire / julien / sophie / louis / camille / henri / jeanne / paul",
    "does": """achète / cherche / porte / regarde / cache / trouve / dessine / garde / vend / perd /
        ouvre / oublie / nettoie / répare / casse""",
    "what": """la table / le livre / une bouteille / les chaussures / la montre / la clé /
        une guitare / trois pommes / cinq oeufs / la lettre / le miroir / une chaise / le fromage /
        les fleurs / un cheval / la lampe / le chapeau / dix pièces""",
    "moves": """marche / attend / travaille / court / chante / danse / dort / voyage / pleure /
        tombe""",
    "where": """sur la place / près de la rivière / au marché / derrière la maison / sous le pont /
        dans la montagne / devant le château / dans le jardin / vers le village / dans la rue /
        au bord de la mer""",
    "when": """demain / lundi matin / ce soir / en été / chaque vendredi / après la pluie /
        le dimanche / très tôt / en hiver / à minuit""",
}

ITALIAN = {
    "who": """il medico / la maestra / il fornaio / mia sorella / tuo cugino / il pittore /
        la cantante / il soldato / la regina / il giardiniere / nostra zia / il ragazzo /
        la bambina / il viaggiatore / suo padre / la nonna""",
    "name": "anna / pietro / lucia / marco / giulia / paolo / elena / carlo / chiara / franco",
    "does": """compra / cerca / porta / guarda / nasconde / trova / disegna / vende / perde / apre /
        dimentica / pulisce / ripara / rompe / raccoglie""",
    "what": """la tavola / il libro / una bottiglia / le scarpe / la chiave / una chitarra /
        tre mele / cinque uova / la lettera / lo specchio / una sedia / il formaggio / i fiori /
        un cavallo / la lampada / il cappello / dieci monete / il cucchiaio""",
    "moves": "cammina / aspetta / lavora / corre / canta / balla / dorme / viaggia / piange / cade",
    "where": """in piazza / vicino al fiume / al mercato / dietro la chiesa / sotto il ponte /
        in montagna / davanti al castello / nel giardino / verso il paese / per la strada /
        in riva al mare""",
    "when": """domani / lunedì mattina / questa sera / in estate / ogni venerdì / dopo la pioggia /
        di domenica / molto presto / in inverno / a mezzanotte""",
}


def _rules(words: dict[str, str]) -> Rules:
    decks = {name: [" ".join(w.split()) for w in text.split("/")] for name, text in words.items()}
    return Rules(decks, PHRASES)


ROMANCE = {"es": _rules(SPANISH), "fr": _rules(FRENCH), "it": _rules(ITALIAN)}
