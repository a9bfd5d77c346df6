"""The words of the rule labeller: how reports name, deny and doubt the CheXpert observations.

Role: data of chexpert_labels.py, after the phrase lists of the CheXpert labeller (Irvin et al. 2019) and NegEx
(Chapman et al. 2001), widened by what phantoms and OpenI reports say.
Input: none. Output: regular expressions over lower-case text with single spaces, every gap in them bounded, and the
stems by which a sentence is told to hold none of them.
"""

from __future__ import annotations

OBSERVATIONS = (
    "No Finding",
    "Enlarged Cardiomediastinum",
    "Cardiomegaly",
    "Lung Lesion",
    "Lung Opacity",
    "Edema",
    "Consolidation",
    "Pneumonia",
    "Atelectasis",
    "Pneumothorax",
    "Pleural Effusion",
    "Pleural Other",
    "Fracture",
    "Support Devices",
)

# Up to n words between two parts of a phrase, not crossing punctuation.
_GAP3 = r"(?: [\w/-]+){0,3}?"
_GAP6 = r"(?: [\w/-]+){0,6}?"
# The same, not crossing into the next statement ("heart size normal and large hernia").
_SAME_STATE = r"(?: (?!normal|and|with|without|or|no|there)[\w/-]+){0,6}?"
_HEART = (
    r"(?:heart(?! failure| block| valve)|cardiac (?:silhouette|size|shadow|contours?|outline)|cardiothoracic ratio)"
)
_MEDIASTINUM = r"(?:cardio-?mediastin(?:um|al)|mediastin(?:um|al))"
_LARGE = r"(?:enlarged|enlargement|increased|large|larger|big|widened|prominent|prominence)"

# What names an observation. A mention is positive unless it is denied or doubted around it.
MENTIONS: dict[str, tuple[str, ...]] = {
    "Enlarged Cardiomediastinum": (
        rf"(?:widened|widening of(?: the)?|wide|enlarged|enlargement of(?: the)?|prominent|"
        rf"prominence of(?: the)?){_GAP3} {_MEDIASTINUM}",
        rf"{_MEDIASTINUM}{_GAP6} (?:is|are|appears?|remains?|looks?){_GAP3} (?:enlarged|widened|wide|prominent)",
        r"mediastinal (?:widening|enlargement|prominence)",
    ),
    "Cardiomegaly": (
        r"cardiomegaly",
        rf"{_LARGE}(?: (?:size|in|of|the|overall|appearing|looking)){{0,4}} {_HEART}",
        rf"{_HEART}{_SAME_STATE} (?:enlarged|enlargement|large|big|increased|above normal)",
        r"heart size (?:is )?borderline|borderline (?:heart|cardiac) size",
        r"(?:cardiac|left ventricular|biventricular|heart) (?:enlargement|hypertrophy)",
    ),
    "Lung Lesion": (
        r"nodul(?:es?|ar (?:opacit(?:y|ies)|densit(?:y|ies)|lesions?|shadows?|foc(?:us|i)))",
        r"nodularity",
        r"(?<!body )(?<!mediastinal )mass(?:es)?(?! effect)",
        r"(?<!osseous )(?<!bony )(?<!bone )(?<!rib )(?<!skeletal )(?<!lytic )(?<!sclerotic )(?<!blastic )lesions?",
        r"tumou?rs?",
        r"neoplas(?:m|ms|tic)",
        r"carcinoma",
        r"malignan(?:cy|cies|t)",
        r"metasta(?:sis|ses|tic)",
        r"cavitat(?:ion|ions|ing)|cavitary",
        r"coin lesions?",
    ),
    "Lung Opacity": (
        r"(?<!nodular )opaci(?:ty|ties|fication|fications|fied)",
        r"air-? ?space (?:disease|process|shadowing)",
        r"infiltrat(?:es?|ions?|ive)",
        r"interstitial (?:markings?|patterns?|lung disease|disease|changes?|thickening|prominence|abnormality)",
        r"reticular (?:patterns?|markings?|changes?)|reticulation|reticulonodular",
        r"(?:haz(?:e|y|iness)|ground-? ?glass|patchy shadow(?:s|ing)?|shadow(?:s|ing) in the (?:left|right|upper|"
        r"lower|mid))",
        r"(?<!bone )(?<!bony )(?<!nodular )(?<!osseous )densit(?:y|ies)",
        r"(?:parenchymal|pulmonary) (?:scar(?:ring|s)?|fibrosis)",
        r"(?:peribronchial|bronchial wall) (?:thickening|cuffing)",
    ),
    "Edema": (
        r"(?<!tissue )(?<!subcutaneous )(?<!peripheral )o?edema",
        r"(?:vascular|venous) (?:congestion|congestive changes|engorgement|redistribution|hypertension|prominence)"
        r"(?! (?:appears?|is|are) (?:normal|within))",
        r"pulmonary congestion",
        r"congestive (?:heart )?(?:failure|changes?)|chf|(?:heart|cardiac) failure",
        r"cephalization",
        r"kerley",
        r"indistinct(?:ness)?(?: of)?(?: the)?(?: pulmonary)? vas\w+",
        r"(?:volume|fluid) overload",
    ),
    "Consolidation": (r"consolidat(?:ions?|ive|ed|ing)", r"air bronchograms?"),
    "Pneumonia": (
        r"(?:broncho)?pneumoni(?:as?|c)",
        r"infect(?:ions?|ious(?: process| etiology)?)",
    ),
    "Atelectasis": (
        r"atelecta\w+",
        r"(?:loss of (?:lung )?volume|volume loss)",
        r"(?:lung|lobar|lobe|segmental|subsegmental|basilar|basal) collapse|collapse of the (?:left|right|lung|"
        r"upper|lower|middle)",
        r"collapsed (?:lung|lobe|(?:left|right|upper|lower|middle) \w+)",
    ),
    "Pneumothorax": (r"(?:hydro|hemo)?-?pneumothora(?:x|ces)", r"pneumothoraces", r"pleural air"),
    "Pleural Effusion": (
        r"(?<!pericardial )(?<!joint )effusions?",
        r"pleural (?:fluid|liquid|collections?)",
        r"(?:fluid|liquid) in the (?:left |right )?(?:pleural (?:space|cavity)|fissures?)",
        r"(?:hydro|h(?:a)?emo)-?(?:pneumo)?thora(?:x|ces)",
        r"empyema",
        rf"blunt(?:ed|ing)(?: of)?{_GAP6} (?:costo-?phrenic|cp|phrenic) ?(?:angles?|sulc(?:us|i)|recess(?:es)?)?",
        rf"(?:costo-?phrenic|cp) (?:angles?|sulc(?:us|i)|recess(?:es)?){_GAP6} blunt(?:ed|ing)",
    ),
    "Pleural Other": (
        r"pleural(?:[ -]based)? (?:thickening|plaques?|scar(?:ring)?|calcifications?|fibrosis)",
        r"thickening of the (?:\w+ )?pleura",
        r"thickened pleura",
        r"fibrothorax",
        r"(?:pleuro-?|pleural-)parenchymal scarring",
        r"(?:bi)?apical (?:pleural )?(?:cap(?:ping|s)?|thickening)",
    ),
    "Fracture": (
        r"fractur(?:es?|ed)",
        r"compression (?:deformit(?:y|ies)|deformed)",
        r"broken (?:rib|bone|clavicle)s?",
    ),
    "Support Devices": (
        r"(?:endotracheal|et|ng|nasogastric|orogastric|og|feeding|enteric|chest|tracheostomy|drainage|drain|"
        r"thoracostomy|dobb?-?hoff|pleural|gastric|intercostal|support) tubes?",
        r"tubes?",
        r"catheters?",
        r"picc",
        r"(?:central|venous|subclavian|jugular|ij|arterial|dialysis|monitoring|vascular|support|picc|intravenous|iv"
        r"|access)(?: venous)?(?: access)? lines?",
        r"lines? (?:and|or|and/or|&) tubes?",
        r"lines? (?:tip|terminat\w+|ends?|projects?|with (?:its |the )?tip)",
        r"pace-?makers?|pacers?|pacing (?:leads?|wires?|devices?)|icd|aicd|defibrillators?",
        r"(?:pacemaker |pacing |icd |ventricular |atrial |ekg |ecg |telemetry |monitor(?:ing)? )(?:leads?|electrodes?)",
        r"(?:leads?|generator) (?:in|over|project\w*|terminat\w+|tips?)",
        r"port-?a-?caths?|portacaths?|medi-?ports?|(?:chest|infusion|venous access) ports?",
        r"swan-? ?ganz|balloon pump|iabp|impella|ecmo",
        r"(?:sternotomy|sternal|cerclage) wires?|sternal sutures?|wires",
        r"(?:surgical|metallic|vascular|cholecystectomy) clips?|(?:surgical )?(?:staples?|sutures?)",
        r"stents?",
        r"(?:prosthetic|mechanical|replaced|artificial|bioprosthetic) (?:\w+ )?valves?|valve (?:replacement|"
        r"prosthesis)",
        r"devices?|hardware|support apparatus",
        r"tracheostomy|intubat(?:ed|ion)",
    ),
}

# Statements of a normal state that deny an observation without naming it.
_NORMAL = (
    r"(?:normal|unremarkable|not enlarged|within normal limits|within (?:the )?limits of normal|stable and normal)"
)
_CLEAR = r"(?:clear|well[ -]aerated|well[ -]expanded and clear|free of (?:disease|abnormality))"
NORMAL_STATES: dict[str, tuple[str, ...]] = {
    "Enlarged Cardiomediastinum": (
        rf"mediastin(?:um|al){_GAP6} {_NORMAL}",
        rf"cardio-?mediastinal{_GAP6} {_NORMAL}",
        rf"normal{_GAP3} (?:cardio-?)?mediastin(?:um|al)",
    ),
    "Cardiomegaly": (
        rf"(?:{_HEART}|cardio-?mediastinal){_GAP6} (?:{_NORMAL}|top[ -]normal|upper limits? of normal|upper normal|"
        rf"top normal)",
        rf"normal(?:[ -]sized?)?(?: [\w/-]+){{0,2}}? {_HEART}",
        r"normal cardio-?mediastinal",
    ),
    "Lung Opacity": (
        rf"lungs?(?: fields?| bases| parenchyma| volumes)?{_GAP6} {_CLEAR}",
        rf"{_CLEAR}(?: and [\w-]+)?(?: bilateral)? lungs?(?: fields?)?",
        rf"(?:lungs?(?: fields?| parenchyma)?|pulmonary parenchyma){_GAP3} (?:normal|unremarkable)",
    ),
    "Edema": (rf"(?:pulmonary )?vas(?:cularity|culature|cular markings){_GAP6} {_NORMAL}", r"normal pulmonary vas\w+"),
    "Pneumothorax": (rf"pleural (?:spaces?|surfaces?){_GAP3} (?:clear|{_NORMAL})", r"normal pleural spaces?"),
    "Pleural Effusion": (
        rf"pleural (?:spaces?|surfaces?|sulci){_GAP3} (?:clear|{_NORMAL})",
        rf"(?:costo-?phrenic|cp) (?:angles?|sulc(?:us|i)|recess(?:es)?){_GAP3} (?:sharp|clear|preserved|{_NORMAL})",
        r"(?:sharp|clear|normal)(?: bilateral)? (?:costo-?phrenic|cp) (?:angles?|sulci)",
    ),
    "Fracture": (
        rf"(?:bon(?:es|y)|osseous|ribs?|skeletal|skeleton|thoracic cage)(?: structures?| thorax)?{_GAP6} (?:intact|"
        rf"{_NORMAL})",
    ),
}

# Every phrase of MENTIONS and NORMAL_STATES holds one of its observation's stems (a test draws phrases and looks), so a
# sentence without them need not be searched: looking for a stem costs a fraction of searching for the phrases.
MENTION_STEMS: dict[str, str] = {
    "Enlarged Cardiomediastinum": "wid large prominen",
    "Cardiomegaly": "cardiomegaly large increased big widened prominen above borderline hypertrophy",
    "Lung Lesion": "nodul mass lesion tumo neoplas carcinoma malignan metasta cavit",
    "Lung Opacity": "opaci space infiltrat interstitial reticul haz ground shadow densit scar fibrosis bronchial",
    "Edema": "edema vascular venous congesti chf failure cephalization kerley indistinct overload",
    "Consolidation": "consolidat bronchogram",
    "Pneumonia": "pneumoni infect",
    "Atelectasis": "atelecta volume collapse",
    "Pneumothorax": "pneumothora air",
    "Pleural Effusion": "effusion fluid liquid collection hydro hemo haemo empyema blunt",
    "Pleural Other": "thicken plaque scar calcific fibro apical",
    "Fracture": "fractur compression broken",
    "Support Devices": "tube catheter picc line pace pacing icd defibrillator lead electrode generator port swan "
    "balloon iabp impella ecmo wire suture clip staple stent valve device hardware apparatus tracheostomy intubat",
}
STATE_STEMS: dict[str, str] = {
    "Enlarged Cardiomediastinum": "mediastin",
    "Cardiomegaly": "heart cardiac cardiothoracic mediastin",
    "Lung Opacity": "lung parenchyma",
    "Edema": "vas",
    "Pneumothorax": "pleural",
    "Pleural Effusion": "pleural phrenic cp",
    "Fracture": "bon osseous rib skelet cage",
}

# What speaks for a normal film as a whole.
NORMAL_FILM = (
    r"\bno (?:\w+[ /-]){0,5}?(?:disease|abnormalit(?:y|ies)|process|findings?|patholog(?:y|ies))\b",
    r"\bwithout (?:\w+[ /-]){0,5}?(?:disease|abnormalit(?:y|ies)|process|findings?|patholog(?:y|ies))\b",
    r"\bnormal (?:\w+ ){0,2}?(?:chest|radiographs?|x-?rays?|films?|study|exam|examination)\b",
    r"\b(?:chest|radiograph|x-?ray|film|study|exam|examination) (?:\w+ ){0,3}?(?:normal|negative|unremarkable)\b",
    r"\bunremarkable (?:\w+ ){0,2}?(?:chest|radiographs?|x-?rays?|films?|study|exam|examination)\b",
    r"\bnegative (?:for|chest)\b",
)

# Before a mention, in its scope: it is denied.
NEGATION_BEFORE = (
    r"(?:no|without|absence of|absent|negative for|free of|free from|clear of|lack of|resolution of|resolved|denies"
    r"|nor|neither|exclude[sd]|never|rather than|removal of|cleared of)",
    r"(?:do|does|did|can|could) ?not (?:appear|show|see|demonstrate|reveal|have|identify|appreciate|detect|contain|"
    r"visualize|suggest|find)",
    r"(?:is|are|was|were)(?: not|n't) (?:any|a|an)",
    r"not (?:a|an|any|seen|enlarged)",
    r"(?:rules?|ruled) out(?: any)?",
)
# "No" of a change, not of a finding.
NOT_A_NEGATION = (
    r"no (?:\w+ ){0,2}?(?:change|changes|increase|decrease|improvement|worsening|progression|enlargement|"
    r"difference)\b(?: (?:in|of))?",
    r"without (?:\w+ ){0,2}?(?:change|increase|decrease|improvement|worsening|progression)\b(?: (?:in|of))?",
    r"no doubt",
    # "The effusion is no longer seen" is a denial of what stands before it; "there is no longer an effusion" is one.
    r"(?<!there )(?:is|are|was|were) no longer",
    r"no longer(?: \w+)? (?:seen|identified|present|evident|demonstrated|detected|visuali[sz]ed|appreciated|noted|"
    r"apparent|observed|visible)(?= ?(?:,|and\b))",
    r"not only",
    r"(?:near|partial|incomplete|near-complete) (?:\w+ )?resolution of",
)
# After a mention, before the next finding: it is denied.
NEGATION_AFTER = (
    r"(?:not|no longer|never)(?: \w+)? (?:seen|identified|present|evident|demonstrated|detected|visuali[sz]ed|"
    r"appreciated|noted|apparent|observed|visible|found|shown|suggested)",
    r"(?:is|are|was|were) (?:absent|excluded|ruled out|negative)",
    r"(?:has|have|had|is|are) (?:\w+ )?(?:resolved|cleared|been removed|removed)",
    r"(?:absent|resolved|removed|excluded)",
    r"(?:none|no|negative)$",  # "Pneumothorax: none."
)
# Before or after a mention: it is doubted. Wins over a negation only where it holds the "not" itself.
DOUBT_WITH_NOT = (
    r"(?:can ?not|can't|could not|cannot|not|never|unable to)(?: \w+){0,2}? (?:exclude|excluded|rule out|ruled out)",
    r"(?:difficult|hard) to (?:exclude|rule out)",
)
DOUBT_BEFORE = (
    r"(?:possibl[ey]|probabl[ey]|potential(?:ly)?|may|might|could|suspected|suspicious|suspicion|suspect|"
    r"questionable|question|equivocal|borderline|presumed|presumably|likely|unlikely|perhaps)",
    r"suggest(?:s|ed|ing|ive|ion)?",
    r"concern(?:s|ing|ed)?(?: for)?",
    r"(?:worrisome|evaluate|evaluation|assess|assessment) (?:for|of)",
    r"(?:rule out|r/o)",
    r"(?:differential|favou?r(?:s|ed|ing)?|consider(?:ation)?|versus|vs)",
)
_DOUBTFUL = r"(?:possible|probable|suspected|questioned|questionable|equivocal|unlikely|likely|considered|borderline)"
DOUBT_AFTER = (
    rf"(?:is|are|was|were|remains?) {_DOUBTFUL}",
    # Without a verb only where the clause ends: in "opacity likely atelectasis" the opacity is not doubted.
    rf"{_DOUBTFUL}(?= ?(?:[.!?:)]|$)| (?:given|in|at|on|based|because)\b)",
    r"(?:may|might|could) (?:be|have)(?: \w+)? present",
    r"(?:versus|vs)",
)
# Ends the reach of a "no" or a "possible".
SCOPE_END = (
    r"but|however|although|though|except(?: for)?|apart from|aside from|other than|besides|despite|whereas|while|yet",
    r"status post|s/p|following|after|since|due to|secondary to|related to|because of|otherwise",
    r"(?:,|and) (?:there|the|this|these|that|a|an|heart|lungs?)\b(?! or)",
    r"there (?:is|are|has|have)(?! no)",
    r"with (?:(?:a|an|the) )?(?:left|right|small|mild|moderate|large|bilateral|stable|unchanged|chest tube)",
    r"(?:is|are|was|were) (?:\w+ )?(?:seen|identified|present|noted|evident|demonstrated|visuali[sz]ed|observed|"
    r"found)(?:,| and)",
)
# A finding of the past or of the indication, not of this film.
NOT_THIS_FILM = (
    r"(?:history|hx|h/o|family history) of",
    r"(?:prior|previous|remote|old)(?= (?:\w+ )?(?:infecti|pneumoni|granulomat))",
    r"(?:indication|history|reason for (?:exam|examination)|clinical information)(?= ?:)",
)
